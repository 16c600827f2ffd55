// The paths that a run writes and those that it reads: they must not overlap, whatever links lead there.
import { readlink, realpath } from "node:fs/promises";
import { basename, dirname, join, resolve, sep } from "node:path";
import { IsrDpoError } from "../base/errors.js";

export interface InputPlace {
  /** Name of the option: model, data, ... */
  name: string;
  path: string;
  /** A folder that is read as a whole: nothing is written into it either. */
  whole?: boolean;
}

/** A path without links, also where its end, or that of a link, does not exist yet. */
export async function realPlace(path: string, links = 40): Promise<string> {
  const absolute = resolve(path);
  try {
    return await realpath(absolute);
  } catch {
    const above = dirname(absolute);
    if (above === absolute) return absolute;
    const target = links > 0 ? await readlink(absolute).catch(() => null) : null;
    if (target !== null) return realPlace(resolve(above, target), links - 1);
    return join(await realPlace(above, links), basename(absolute));
  }
}

export const samePlace = async (a: string, b: string): Promise<boolean> =>
  (await realPlace(a)) === (await realPlace(b));

const holds = (folder: string, path: string): boolean =>
  path === folder || path.startsWith(folder.endsWith(sep) ? folder : folder + sep);

/**
 * INVALID_ARGUMENT, with both paths, for an input that lies where a run in `dir` will write (`written`: names in it), for one
 * that is `dir` itself, and for a `dir` inside a folder that is read as a whole.
 */
export async function refuseMeeting(
  dir: string,
  written: readonly string[],
  inputs: readonly InputPlace[],
): Promise<void> {
  const run = await realPlace(dir);
  const places = await Promise.all(written.map(async (name) => ({ name, real: await realPlace(join(dir, name)) })));
  for (const { name, path, whole } of inputs) {
    const real = await realPlace(path);
    const met =
      real === run || (whole && holds(real, run))
        ? dir
        : places.filter((p) => holds(p.real, real) || (whole && holds(real, p.real))).map((p) => join(dir, p.name))[0];
    if (met === undefined) continue;
    throw new IsrDpoError(
      "INVALID_ARGUMENT",
      `${name}: expected a path apart from what the run writes, got ${path}, which meets ${met}`,
      { hint: "give the run a folder of its own", path, detail: { field: name, input: path, output: met } },
    );
  }
}
