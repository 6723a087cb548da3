// The parts of three.js that evaluation/report/web/viewer.js uses.
export {
  BufferAttribute, BufferGeometry, Line, LineBasicMaterial, PerspectiveCamera, Plane, Points,
  PointsMaterial, Scene, Vector3, WebGLRenderer,
} from "three";
export { OrbitControls } from "three/addons/controls/OrbitControls.js";
