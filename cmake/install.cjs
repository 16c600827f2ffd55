#!/usr/bin/env node
// The install script: a binary that is there and loads is taken (a prebuild, or one built before), otherwise one is built.
// npm's --build-from-source builds in any case.
const { spawnSync } = require("node:child_process");
const path = require("node:path");

const root = path.resolve(__dirname, "..");

function loads() {
  if (process.env.npm_config_build_from_source === "true") return false;
  try {
    require("node-gyp-build")(root);
    return true;
  } catch {
    return false;
  }
}

if (!loads()) process.exit(spawnSync(process.execPath, [path.join(__dirname, "build.cjs")], { stdio: "inherit" }).status ?? 1);
