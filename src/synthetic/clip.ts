// Clips of the synthetic world: 16 frames of 32 x 32 in four shots of four frames. Three or four coloured shapes, each on screen
// in two of the shots; a look sees one shot. What is on screen is known, so that every claim about a clip is right or wrong.
import type { Random } from "./seeded-draws.js";

export const colours = ["red", "green", "blue", "yellow", "purple", "cyan"] as const;
export const shapes = ["circle", "square", "triangle", "cross"] as const;
export const motions = ["left", "right", "up", "down", "still"] as const;

const rgb = [
  [230, 40, 40],
  [40, 200, 60],
  [50, 80, 240],
  [235, 220, 50],
  [190, 50, 210],
  [40, 210, 220],
] as const;
const direction = [
  [-1, 0],
  [1, 0],
  [0, -1],
  [0, 1],
  [0, 0],
] as const;

export const size = 32;
export const shots = 4;
export const framesOfShot = 4;
export const frames = shots * framesOfShot;

/** Indices into colours, shapes and motions. */
export interface Thing {
  colour: number;
  shape: number;
  motion: number;
}

export interface Clip {
  /** By colour, each of another one. */
  things: readonly Thing[];
  /** The shots in which each thing is on screen. */
  shotsOf: readonly (readonly number[])[];
}

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/** `count` things of different colours, by colour. */
export function someThings(random: Random, count: number): Thing[] {
  const drawn = random.sample(range(colours.length), count).sort((a, b) => a - b);
  return drawn.map((colour) => ({
    colour,
    shape: random.below(shapes.length),
    motion: random.below(motions.length),
  }));
}

export function clipOf(random: Random): Clip {
  const things = someThings(random, 3 + random.below(2));
  for (;;) {
    const shotsOf = things.map(() => random.sample(range(shots), 2));
    if (new Set(shotsOf.flat()).size === shots) return { things, shotsOf }; // no shot is empty
  }
}

/** What one shot shows. */
export const view = ({ things, shotsOf }: Clip, shot: number): Thing[] =>
  things.filter((_, i) => shotsOf[i]!.includes(shot));

function inside(shape: number, u: number, v: number, r: number): boolean {
  const [x, y] = [Math.abs(u), Math.abs(v)];
  if (shape === 0) return u * u + v * v < r * r;
  if (shape === 1) return x < r * 0.88 && y < r * 0.88;
  if (shape === 2) return v < r * 0.85 && v > -r && x < (v + r) * 0.6;
  return (x < r * 0.35 && y < r) || (y < r * 0.35 && x < r);
}

export interface Shot {
  /** RGB, (4, 32, 32, 3). */
  pixels: Uint8Array;
  /** Index of the thing that covers a pixel, 255: none; (4, 32, 32). */
  cover: Uint8Array;
}

interface Place {
  x: number;
  y: number;
  r: number;
  speed: number;
}

const quadrants = range(4);

function places(random: Random, n: number): Place[] {
  return random.sample(quadrants, n).map((k) => ({
    x: 8 + 16 * (k % 2) + random.between(-1.5, 1.5),
    y: 8 + 16 * Math.floor(k / 2) + random.between(-1.5, 1.5),
    r: random.between(4, 5.2),
    speed: random.between(2.4, 3.4),
  }));
}

/** The thing that is seen at a point of a frame; -1: none. The last one lies on top. */
function topAt(things: readonly Thing[], at: readonly Place[], frame: number, x: number, y: number): number {
  for (let i = things.length - 1; i >= 0; i--) {
    const { shape, motion } = things[i]!;
    const [dx, dy] = direction[motion]!;
    const away = at[i]!.speed * (frame - 1.5);
    if (inside(shape, x - at[i]!.x - dx * away, y - at[i]!.y - dy * away, at[i]!.r)) return i;
  }
  return -1;
}

/** Draws things in different quadrants on a dark ground with noise of about 0.02. */
export function renderShot(random: Random, things: readonly Thing[]): Shot {
  const at = places(random, things.length);
  const pixels = new Uint8Array(framesOfShot * size * size * 3);
  const cover = new Uint8Array(framesOfShot * size * size).fill(255);
  const ground = random.between(0, 38);
  for (let f = 0, p = 0; f < framesOfShot; f++)
    for (let y = 0; y < size; y++)
      for (let x = 0; x < size; x++, p++) {
        const top = topAt(things, at, f, x + 0.5, y + 0.5);
        if (top >= 0) cover[p] = top;
        for (let c = 0; c < 3; c++) {
          const noise = random.between(-5, 5) + random.between(-5, 5);
          pixels[3 * p + c] =
            top >= 0 ? rgb[things[top]!.colour]![c]! : Math.max(0, Math.min(255, Math.round(ground + noise)));
        }
      }
  return { pixels, cover };
}

/** All frames of a clip, RGB, (16, 32, 32, 3). Each shot is drawn anew: places and ground differ. */
export function renderClip(random: Random, clip: Clip): Uint8Array {
  const all = new Uint8Array(frames * size * size * 3);
  for (let s = 0; s < shots; s++) all.set(renderShot(random, view(clip, s)).pixels, s * framesOfShot * size * size * 3);
  return all;
}
