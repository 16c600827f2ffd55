// Disk faults while two iterations run.
import { tsImport } from "tsx/esm/api";
import { FaultyRun } from "./fault-run.mjs";

const { clips, isrResultOf } = await tsImport("../test/helpers/isr-run.ts", import.meta.url);
const { writeClips } = await tsImport("../test/helpers/train-run.ts", import.meta.url);

export class Iterations extends FaultyRun {
  every = 97; // of thousands of operations, most of which are steps of train() and saves, tried one by one there
  some = (operations) => operations / 6;

  constructor(work, shim) {
    super(work, shim, { child: "isr-run", write: (data) => writeClips(data, clips), resultOf: isrResultOf });
  }
}
