// Holds the lock of a folder until it is killed; says so, or says why not.
import { acquireLock } from "../../src/runfolder/folder-lock.js";

try {
  await acquireLock(process.argv[2]!);
  console.log("held");
  setInterval(() => {}, 1000);
} catch (e) {
  console.log(JSON.stringify(e));
}
