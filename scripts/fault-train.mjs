// Disk faults while train() runs four steps with two checkpoints: those that were saved before still load.
import { tsImport } from "tsx/esm/api";
import { FaultyRun } from "./fault-run.mjs";

const { resultOf, sizes, writeData } = await tsImport("../test/helpers/train-run.ts", import.meta.url);

export class Train extends FaultyRun {
  some = (operations) => operations / 24;

  constructor(work, shim) {
    super(work, shim, { child: "train-run", args: ["short"], write: (data) => writeData(data, sizes.short), resultOf });
  }

  wrong(first) {
    if (first.bad.length) return `a checkpoint does not hold: ${JSON.stringify(first.bad)}`;
    const saved = Math.floor(first.reached / sizes.short.saveEverySteps) * sizes.short.saveEverySteps;
    return first.saved < saved ? `expected the checkpoint of step ${saved}, got ${first.saved}` : null;
  }
}
