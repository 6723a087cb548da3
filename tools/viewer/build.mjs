// Makes mvdust3r_ros/evaluation/report/web/three.min.js: npm install && npm run build
import { readFileSync } from "node:fs";
import { build } from "esbuild";

const licence = readFileSync("node_modules/three/LICENSE", "utf8").trim();
await build({
  entryPoints: ["three_parts.js"],
  bundle: true,
  minify: true,
  format: "iife",
  globalName: "THREE",
  banner: { js: `/*! three.js\n${licence}\n*/` },
  outfile: "../../mvdust3r_ros/evaluation/report/web/three.min.js",
});
