// A worker that fails and posts what it caught: as it is, and as JSON.
import { parentPort } from "node:worker_threads";
import { loadModel } from "../../src/index.js";

await loadModel("no/such/folder").catch((e) => parentPort!.postMessage({ thrown: e, json: JSON.stringify(e) }));
