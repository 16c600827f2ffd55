// report() of the package. What makes a page is loaded at its first call: most programs make none.

/**
 * Writes one self-contained HTML file about a folder of `run`, `train` or `demo`, with figures, numbers and a table of samples, and
 * returns its path. It only reads the folder, and may be called while the run goes on.
 *
 * @param runDir - folder of the run
 * @param file - where to write; default: report.html in `runDir`
 * @throws {@link IsrDpoError} NOT_FOUND: the folder holds no run; INVALID_ARGUMENT; DISK_FULL, IO
 *
 * @example
 * ```ts
 * import { report } from "isr-dpo";
 *
 * console.log(await report("runs/isr"));
 * ```
 */
export async function report(runDir: string, file?: string): Promise<string> {
  const { writeReport } = await import("./write-report.js");
  return (await writeReport(runDir, file)).path;
}
