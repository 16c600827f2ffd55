// Frames to pixel values: the golden files of the families' own processors, a float64 reference for LanguageBind, bad input.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { ErrorCode } from "../src/index.js";
import { applyRecipe, clipMean, clipStd, type PreprocessConfig, preprocessFrames } from "../src/video/preprocess.js";
import { near, rejects, sameBits } from "./helpers/assert.js";
import { floatsOf, intsOf, readSafetensors, type Stored } from "./helpers/safetensors.js";
import { memoized } from "./helpers/memoized.js";

const test = suite("video preprocess");
const golden = fileURLToPath(new URL("golden/preprocess/", import.meta.url));
const data = readSafetensors(`${golden}cases.safetensors`);

interface GoldenCase {
  case: string;
  shortest_edge: number;
  longest_edge: number;
  crop: number;
  patch: number;
  merge: number;
  min_pixels: number;
  max_pixels: number;
  resized_hw: [number, number];
}
const cases: GoldenCase[] = JSON.parse(readFileSync(`${golden}cases.json`, "utf8")).cases;

function bytesOf(name: string): Stored & { data: Uint8Array } {
  const t = data.get(name);
  if (!(t?.data instanceof Uint8Array)) throw new Error(`no bytes ${name}`);
  return t as Stored & { data: Uint8Array };
}

function framesOf(name: string) {
  const { shape, data } = bytesOf(`${name}/frames`);
  const [frames, height, width] = shape as [number, number, number];
  return { data, frames, height, width };
}

for (const c of cases.filter((c) => c.case.startsWith("clip")))
  test(`golden ${c.case}: the bytes and the values`, async () => {
    const frames = framesOf(c.case);
    const { pixels, resized } = await preprocessFrames(frames, { type: "clip", size: c.shortest_edge, crop: c.crop });
    const expected = bytesOf(`${c.case}/cropped_u8`);
    assert.equal(resized.shape, expected.shape);
    sameBits(resized.data, expected.data, "resized");
    assert.equal(pixels.shape, [frames.frames, 3, c.crop, c.crop]);
    const area = c.crop * c.crop;
    const own = Float32Array.from({ length: pixels.data.length }, (_, i) => {
      const [t, k, at] = [Math.floor(i / (3 * area)), Math.floor(i / area) % 3, i % area];
      return (expected.data[(t * area + at) * 3 + k]! / 255 - clipMean[k]!) / clipStd[k]!;
    });
    near(
      pixels.data,
      data.has(`${c.case}/pixel_values`) ? floatsOf(data, `${c.case}/pixel_values`) : own,
      1e-6,
      "pixels",
    );
  });

for (const c of cases.filter((c) => c.case.startsWith("qwen"))) {
  const made = memoized(async () => {
    const frames = framesOf(c.case);
    const config: PreprocessConfig = {
      type: "qwen2_vl",
      size: 0,
      patch: c.patch,
      merge: c.merge,
      minPixels: c.min_pixels,
      maxPixels: c.max_pixels,
    };
    const data = frames.data.subarray(0, frames.height * frames.width * 3);
    return {
      video: await preprocessFrames(frames, config),
      image: await preprocessFrames({ ...frames, frames: 1, data }, config),
    };
  });

  test(`golden ${c.case}: the bytes`, async () => {
    const { resized } = (await made()).video;
    const expected = bytesOf(`${c.case}/resized_u8`);
    assert.equal(resized.shape, expected.shape);
    sameBits(resized.data, expected.data, "resized");
  });

  for (const [kind, name, grid] of (
    [
      ["video", "video_pixel_values", "video_grid_thw"],
      ["image", "image0_pixel_values", "image0_grid_thw"],
    ] as const
  ).filter(([, name]) => data.has(`${c.case}/${name}`)))
    test(`golden ${c.case}: the rows and the grid: ${kind}`, async () => {
      const got = (await made())[kind];
      assert.equal([...got.gridThw!], [...intsOf(data, `${c.case}/${grid}`)]);
      assert.equal(got.pixels.shape, data.get(`${c.case}/${name}`)!.shape);
      near(got.pixels.data, floatsOf(data, `${c.case}/${name}`), 1e-6, name);
    });
}

for (const c of cases.filter((c) => c.case.startsWith("smol")))
  test(`golden ${c.case}: the values and the mask`, async () => {
    const S = c.longest_edge;
    const { pixels, resized, pixelMask } = await preprocessFrames(framesOf(c.case), { type: "siglip_smol", size: S });
    assert.equal(pixels.shape, [1, 3, S, S]);
    assert.equal(resized.shape, [1, S, S, 3]);
    near(pixels.data, floatsOf(data, `${c.case}/pixel_values`), 1e-6, "pixels");
    sameBits(pixelMask!.data, bytesOf(`${c.case}/pixel_attention_mask`).data, "mask");
  });

test("all golden cases were there", () => {
  assert.equal(
    cases.map((c) => c.case.replace(/\d/, "")).join(" "),
    `${"clip ".repeat(8)}${"qwen ".repeat(3)}smol smol`,
  );
});

// ---------- LanguageBind, in float64, pixel by pixel from the formulas

interface Rows {
  value(t: number, y: number, x: number, c: number): number; // normalised input
  height: number;
  width: number;
}

const evenRound = (v: number) => (v % 1 === 0.5 ? 2 * Math.round(v / 2) : Math.round(v));

/** The sum over inputs of kernel(distance) * value, inputs beyond the border being those at the border. */
function along(size: number, source: number, kernel: (d: number) => number, reach: number): [number, number][] {
  const base = Math.floor(source);
  const taps: [number, number][] = [];
  for (let i = base - reach + 1; i <= base + reach; i++)
    taps.push([Math.min(Math.max(i, 0), size - 1), kernel(Math.abs(source - i))]);
  return taps;
}

function bindReference(rows: Rows, t: number, size: number, cubic: boolean): number[] {
  const { height, width } = rows;
  const long = (a: number, b: number) => (cubic ? Math.trunc((size * a) / b) : Math.floor((a / b) * size));
  const [oh, ow] = width < height ? [long(height, width), size] : [size, width === height ? size : long(width, height)];
  const kernel = cubic
    ? (d: number) =>
        d <= 1 ? 1.25 * d ** 3 - 2.25 * d ** 2 + 1 : d < 2 ? -0.75 * (d ** 3 - 5 * d ** 2 + 8 * d - 4) : 0
    : (d: number) => Math.max(1 - d, 0);
  const at = (o: number, n: number, out: number) => {
    const source = (n / out) * (o + 0.5) - 0.5;
    return along(n, cubic ? source : Math.max(source, 0), kernel, cubic ? 2 : 1);
  };
  const [top, left] = [evenRound((oh - size) / 2), evenRound((ow - size) / 2)];
  const out: number[] = [];
  for (let c = 0; c < 3; c++)
    for (let y = 0; y < size; y++)
      for (let x = 0; x < size; x++) {
        let sum = 0;
        for (const [i, wi] of at(top + y, height, oh))
          for (const [j, wj] of at(left + x, width, ow)) sum += wi * wj * rows.value(t, i, j, c);
        out.push(sum);
      }
  return out;
}

/** Bytes that no two frames, rows or channels share. */
const bytes = (n: number) => Uint8Array.from({ length: n }, (_, i) => (Math.imul(i + 1, 2654435761) >>> 24) & 255);

for (const [T, H, W, S] of [
  [3, 40, 53, 28],
  [2, 61, 33, 28],
  [1, 17, 20, 24],
  [2, 28, 31, 28], // crop offset 1.5: halves go to even
  [2, 33, 28, 28], // 2.5
  [1, 28, 28, 28],
] as const)
  for (const cubic of [false, true])
    test(`languagebind ${cubic ? "image " : ""}${T} x ${H} x ${W} to ${S}: a float64 reference`, async () => {
      const frame = bytes(T * H * W * 3);
      const value = (t: number, y: number, x: number, c: number) =>
        (frame[((t * H + y) * W + x) * 3 + c]! / 255 - clipMean[c]!) / clipStd[c]!;
      const all = Array.from({ length: T }, (_, t) => bindReference({ value, height: H, width: W }, t, S, cubic));
      const expected = new Float64Array(3 * T * S * S);
      for (let c = 0; c < 3; c++)
        for (let t = 0; t < T; t++) expected.set(all[t]!.slice(c * S * S, (c + 1) * S * S), (c * T + t) * S * S);
      if (cubic) {
        const frames = Array.from({ length: T }, (_, t) => ({
          data: frame.subarray(t * H * W * 3, (t + 1) * H * W * 3),
          height: H,
          width: W,
        }));
        const sizes = { size: S, crop: S, exact: false, patch: 1, merge: 1, minPixels: 1, maxPixels: 1 };
        const norm = { mean: Float32Array.from(clipMean), std: Float32Array.from(clipStd) };
        const { pixels } = await applyRecipe(
          frames,
          { type: "languagebind_image", ...sizes, ...norm },
          { resized: false },
        );
        near(pixels, expected, 3e-6, "pixels");
        return;
      }
      const { pixels, resized } = await preprocessFrames(
        { data: frame, frames: T, height: H, width: W },
        { type: "languagebind", size: S },
      );
      assert.equal(pixels.shape, [3, T, S, S]);
      near(pixels.data, expected, 3e-6, "pixels");
      const back = Float64Array.from(resized.data, (_, i) => {
        const [t, at, c] = [Math.floor(i / (S * S * 3)), Math.floor(i / 3) % (S * S), i % 3];
        return (expected[(c * T + t) * S * S + at]! * clipStd[c]! + clipMean[c]!) * 255;
      });
      near(resized.data, back, 0.5001, "resized");
    });

test("exact: the ratio is not kept", async () => {
  const frames = [{ data: bytes(30 * 50 * 3), height: 30, width: 50 }];
  const base = { size: 30, crop: 30, patch: 1, merge: 1, minPixels: 1, maxPixels: 1 };
  const norm = { mean: Float32Array.from(clipMean), std: Float32Array.from(clipStd) };
  const at = async (exact: boolean) =>
    (await applyRecipe(frames, { type: "clip", exact, ...base, ...norm }, { resized: true })).resized!;
  // Rows are not resampled here (30 to 30), so row 7 of the squeezed frame is row 7 of its neighbour columns: 50 to 30.
  const [kept, squeezed] = [await at(false), await at(true)];
  assert.equal([...kept.subarray(0, 30)], [...frames[0]!.data.subarray(30, 60)], "columns 10 to 40, untouched");
  assert.not.equal([...kept], [...squeezed]);
});

const five = memoized(() => ({ data: bytes(5 * 45 * 60 * 3), frames: 5, height: 45, width: 60 }));
for (const type of ["clip", "languagebind"] as const)
  test(`one thread or many, one frame or many: the same bits: ${type}`, async () => {
    const frames = five();
    const all = await preprocessFrames(frames, { type, size: 32 });
    for (let t = 0; t < 5; t++) {
      const size = 45 * 60 * 3;
      const one = await preprocessFrames(
        { ...frames, frames: 1, data: frames.data.subarray(t * size, (t + 1) * size) },
        { type, size: 32 },
      );
      sameBits(one.resized.data, all.resized.data.slice(t * 32 * 32 * 3, (t + 1) * 32 * 32 * 3), `${type} frame ${t}`);
    }
  });

test("shared memory and views with an offset are read as they are", async () => {
  const own = bytes(2 * 20 * 20 * 3);
  const shared = new Uint8Array(new SharedArrayBuffer(own.length + 5), 5);
  shared.set(own);
  const config = { type: "clip", size: 16 } as const;
  const [a, b] = await Promise.all(
    [own, shared].map((data) => preprocessFrames({ data, frames: 2, width: 20, height: 20 }, config)),
  );
  sameBits(a!.pixels.data, b!.pixels.data, "pixels");
});

const clip = { type: "clip", size: 8 } as const;
const frame = (w: number, h: number, n = 1) => ({
  data: new Uint8Array(Math.min(w * h * n * 3, 1 << 22)),
  frames: n,
  width: w,
  height: h,
});
const wrong = (x: unknown) => x as never;
const bad: [what: string, call: () => Promise<unknown>, code: ErrorCode, message: RegExp][] = [
  ["no frames", () => preprocessFrames(frame(4, 4, 0), clip), "INVALID_ARGUMENT", /frames\.frames.*1.*0/],
  [
    "no number of frames",
    () => preprocessFrames(wrong({ data: new Uint8Array(48), width: 4, height: 4 }), clip),
    "INVALID_ARGUMENT",
    /frames\.frames/,
  ],
  [
    "too few bytes",
    () => preprocessFrames({ ...frame(4, 4, 2), frames: 3 }, clip),
    "INVALID_ARGUMENT",
    /frames\.data.*3 x 4 x 4 x 3 = 48.*\(96\)/,
  ],
  [
    "no bytes",
    () => preprocessFrames(wrong({ ...frame(4, 4), data: new Float32Array(48) }), clip),
    "INVALID_ARGUMENT",
    /frames\.data.*Uint8Array/,
  ],
  ["a width of 0", () => preprocessFrames(frame(0, 4), clip), "INVALID_ARGUMENT", /width.*0/],
  ["a width above the limit", () => preprocessFrames(frame(16385, 1), clip), "INVALID_ARGUMENT", /width.*16384.*16385/],
  [
    "an unknown type",
    () => preprocessFrames(frame(4, 4), wrong({ type: "clipp", size: 8 })),
    "INVALID_ARGUMENT",
    /did you mean 'clip'/,
  ],
  [
    "an unknown option",
    () => preprocessFrames(frame(4, 4), wrong({ ...clip, sizes: 8 })),
    "INVALID_ARGUMENT",
    /'sizes'.*'size'/,
  ],
  ["no size", () => preprocessFrames(frame(4, 4), wrong({ type: "clip" })), "INVALID_ARGUMENT", /config\.size/],
  [
    "a size above the limit",
    () => preprocessFrames(frame(4, 4), { type: "clip", size: 4097 }),
    "INVALID_ARGUMENT",
    /config\.size.*4096/,
  ],
  [
    "a crop above the size",
    () => preprocessFrames(frame(4, 4), { ...clip, crop: 9 }),
    "INVALID_ARGUMENT",
    /crop.*8.*9/,
  ],
  [
    "a deviation of 0",
    () => preprocessFrames(frame(4, 4), { ...clip, std: [1, 0, 1] }),
    "INVALID_ARGUMENT",
    /config\.std\[1\]/,
  ],
  [
    "two means",
    () => preprocessFrames(frame(4, 4), { ...clip, mean: [1, 0] }),
    "INVALID_ARGUMENT",
    /config\.mean.*three/,
  ],
  [
    "a strip for qwen2_vl",
    () => preprocessFrames(frame(402, 2), { type: "qwen2_vl", size: 0 }),
    "INVALID_ARGUMENT",
    /ratio of 200.*402 x 2/,
  ],
  [
    "fewer pixels at most than at least",
    () => preprocessFrames(frame(40, 40), { type: "qwen2_vl", size: 0, minPixels: 5000, maxPixels: 4000 }),
    "INVALID_ARGUMENT",
    /minPixels.*4000.*5000/,
  ],
  [
    "more values than can be",
    () => preprocessFrames(frame(1, 1, 4096), { type: "clip", size: 4096 }),
    "INVALID_ARGUMENT",
    /pixel values/,
  ],
];
for (const [what, call, code, message] of bad) test(`refused: ${what}`, () => rejects(call, code, message, what));

test("a strip of 16384 x 1 is cropped without making its full width", async () => {
  const { resized } = await preprocessFrames(
    { data: bytes(16384 * 3), frames: 1, width: 16384, height: 1 },
    { type: "clip", size: 336 },
  );
  assert.equal(resized.shape, [1, 336, 336, 3]);
});

test.run();
