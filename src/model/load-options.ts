// Options of loadModel(): their rows, and the checks of what rows do not describe.
import { options, refuse, signal } from "../base/check.js";
import { filePath, oneOf, type Resolved, resolved, textLike, whole } from "../base/option-rows.js";
import { wallClock } from "../text/template-date.js";
import type { LoadOptions } from "../base/types.js";
import { cacheRows, readRows } from "../video/media-options.js";

/** How a model is loaded, in calls and in configuration files. */
export const loadRows = {
  device: textLike<"auto" | "cpu" | "cuda" | `cuda:${number}`>(
    "Device: cpu, cuda (the first card), cuda:N, or auto: the first card that can be used, else the CPU.",
    /^(auto|cpu|cuda(:\d+)?)$/,
    "'auto', 'cpu', 'cuda' or 'cuda:N'",
    // biome-ignore lint/suspicious/noTemplateCurlyInString: a type of TypeScript
    '"auto" | "cpu" | "cuda" | `cuda:${number}`',
  ).or("auto"),
  dtype: oneOf(
    "Type of the weights in memory; auto: the type of the file, where float16 becomes f32.",
    "auto",
    "f32",
    "bf16",
  ).or("auto"),
  threads: whole("Largest number of threads of the process's pool; default: all that the machine allows.", 1, 256),
  visionTower: filePath(
    "Folder of the vision tower, for checkpoints that only name it; default: the tower that the checkpoint contains or names.",
  ),
  adapter: filePath("Folder of a LoRA adapter in PEFT's format, which the model computes with."),
};

/** How files of media are read. */
export const mediaRows = { mediaTimeoutMs: readRows.timeoutMs, mediaMaxLost: readRows.maxLost };

const handlers = ["onProgress", "onMedia"] as const;

/** Keys of {@link LoadOptions}. */
const loadKeys: readonly string[] = [
  ...Object.keys(loadRows),
  ...Object.keys(mediaRows),
  ...["featureCache", "templateDate", "signal"],
  ...handlers,
];

/** Options of loadModel(), checked and filled up with their defaults. */
export interface LoadSettings extends Resolved<typeof loadRows>, Resolved<typeof mediaRows> {
  featureCache: Resolved<typeof cacheRows> | undefined;
  templateDate: LoadOptions["templateDate"];
  signal: AbortSignal | undefined;
  onProgress: LoadOptions["onProgress"];
  onMedia: LoadOptions["onMedia"];
}

function handlersOf(field: string, given: Record<string, unknown>): Pick<LoadOptions, (typeof handlers)[number]> {
  for (const key of handlers)
    if (given[key] !== undefined && typeof given[key] !== "function")
      refuse(`${field}.${key}`, "a function", given[key]);
  return given;
}

/**
 * Checks options of loadModel(), which messages call `field`.
 * @throws IsrDpoError INVALID_ARGUMENT
 */
export function loadSettings(field: string, value: unknown): LoadSettings {
  const { featureCache, templateDate, signal: cancel, onProgress, onMedia, ...rest } = options(field, value, loadKeys);
  wallClock(`${field}.templateDate`, templateDate); // checked here: the first use would refuse it as the tokenizer's fault
  const cached = featureCache !== undefined && featureCache !== false;
  return {
    ...resolved(field, rest, { ...loadRows, ...mediaRows }),
    featureCache: cached ? resolved(`${field}.featureCache`, featureCache, cacheRows) : undefined,
    templateDate: templateDate as LoadOptions["templateDate"],
    signal: signal(`${field}.signal`, cancel),
    ...handlersOf(field, { onProgress, onMedia }),
  } as LoadSettings;
}
