// Copies of the arrays that callers give. The engine reads on another thread while the caller's code goes on, which may
// change, resize or transfer its arrays. Therefore no job ever sees the caller's memory.
import type { Media, Tensor } from "./types.js";

const kinds = [Float32Array, Uint16Array, Uint8Array, Int32Array] as const;
type Numbers = InstanceType<(typeof kinds)[number]>;

/** A copy, whatever the memory behind it: shared, resizable, a Buffer's. What is no such array comes back as it is. */
export function owned<T>(array: T): T {
  const Kind = kinds.find((kind) => array instanceof kind);
  return Kind ? (new Kind(array as Numbers) as T) : array; // slice() of a Buffer would share its memory
}

const ownedTensor = <T extends Tensor>(t: T): T =>
  typeof t === "object" && t !== null ? { ...t, data: owned(t.data) } : t;

/** A medium of which nothing lies in the caller's memory. Nothing is checked. */
export function ownedMedia(media: Media): Media {
  if (typeof media !== "object" || media === null) return media;
  if ("data" in media) return ownedTensor(media);
  if ("frames" in media) return { ...media, frames: owned(media.frames) };
  if ("pixels" in media) return { ...media, pixels: ownedTensor(media.pixels) };
  return media;
}
