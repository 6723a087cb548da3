"use strict";
// The 3-D view of a report. The page holds the cloud and three.js as text; nothing is fetched.

const bytesOf = (id) =>
  Uint8Array.from(atob(document.getElementById(id).textContent.trim()), (c) => c.charCodeAt(0));

async function unzipped(id) {
  const stream = new Blob([bytesOf(id)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

async function loadThree() {
  const text = new TextDecoder().decode(await unzipped("three-gz"));
  const script = document.createElement("script");
  script.textContent = text + "\n;window.THREE = THREE;";
  document.head.appendChild(script);
  return window.THREE;
}

function line(THREE, points, color) {
  const geometry = new THREE.BufferGeometry();
  geometry.setAttribute("position", new THREE.BufferAttribute(new Float32Array(points.flat()), 3));
  return new THREE.Line(geometry, new THREE.LineBasicMaterial({ color }));
}

async function show(box) {
  const meta = JSON.parse(document.getElementById("cloud-meta").textContent);
  const THREE = await loadThree();
  const data = await unzipped("cloud-gz");
  const steps = new Uint16Array(data, 0, 3 * meta.count);
  const colors = new Uint8Array(data, 6 * meta.count, 3 * meta.count);
  const positions = Float32Array.from(steps, (s, k) => meta.low[k % 3] + s * meta.step[k % 3]);

  const renderer = new THREE.WebGLRenderer({ antialias: true });
  renderer.setClearColor(0xf6f7f9);
  renderer.localClippingEnabled = true;
  renderer.setPixelRatio(Math.min(window.devicePixelRatio, 2));
  const cut = new THREE.Plane(new THREE.Vector3(0, 0, -1), meta.cut);
  const geometry = new THREE.BufferGeometry();
  geometry.setAttribute("position", new THREE.BufferAttribute(positions, 3));
  // three.js takes vertex colours as linear light
  const linear = Float32Array.from(colors, (c) => Math.pow(c / 255, 2.2));
  geometry.setAttribute("color", new THREE.BufferAttribute(linear, 3));
  const material = new THREE.PointsMaterial({
    size: meta.point_m, vertexColors: true, clippingPlanes: [cut],
  });
  const scene = new THREE.Scene();
  scene.add(new THREE.Points(geometry, material));
  for (const path of meta.paths) scene.add(line(THREE, path, 0x1e6edc));
  for (const path of meta.true_paths) scene.add(line(THREE, path, 0xe68c14));

  const camera = new THREE.PerspectiveCamera(45, 1, 0.05, 50 * meta.size);
  camera.up.set(0, 0, 1);
  const controls = new THREE.OrbitControls(camera, renderer.domElement);
  const centre = new THREE.Vector3(...meta.centre);
  const draw = () => renderer.render(scene, camera);
  const look = (x, y, z) => {
    controls.target.copy(centre);
    camera.position.copy(centre).add(new THREE.Vector3(x, y, z).multiplyScalar(meta.size));
    controls.update();
    draw();
  };
  const oblique = () => look(0.52 * Math.cos(meta.azimuth), 0.52 * Math.sin(meta.azimuth), 0.55);
  const fit = () => {
    renderer.setSize(box.clientWidth, box.clientHeight, false);
    camera.aspect = box.clientWidth / box.clientHeight;
    camera.updateProjectionMatrix();
    draw();
  };
  box.replaceChildren(renderer.domElement);
  controls.addEventListener("change", draw);
  document.getElementById("view-oblique").onclick = oblique;
  document.getElementById("view-top").onclick = () => look(0, -0.001, 0.9);
  const height = document.getElementById("view-cut");
  height.oninput = () => {
    cut.constant = Number(height.value);
    draw();
  };
  new ResizeObserver(fit).observe(box);
  fit();
  oblique();
  box.dataset.state = "drawn";
}

const box = document.getElementById("viewer");
if (box) {
  show(box).catch((error) => {
    // without WebGL the still picture stays
    box.dataset.state = "still";
    document.getElementById("viewer-note").textContent =
      "This browser cannot draw the 3-D view (" + error.message + "); here is a still picture.";
  });
}
