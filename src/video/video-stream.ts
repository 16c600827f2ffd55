// Facts about the video stream of a file before anything is decoded.

/** The timestamps of a stream whose packets say all: one packet a frame, every packet with its time. */
export interface Stamps {
  /** In the order in which they are shown, in ticks of the stream. */
  pts: Float64Array;
  /** Places in `pts` of frames that decoding can begin at, ascending. */
  keys: Int32Array;
}

export interface Probe {
  /** Number of the stream in the file. */
  stream: number;
  /** Video streams beside it, covers included. */
  others: number;
  codec: string;
  /** Names of the container, as ffmpeg has them. */
  format: string;
  /** Packets of the stream that are shown: nearly always the number of its frames. */
  packets: number;
  /** Frames that the container announces, where it does. */
  announced: number;
  /** Frames that the container announces and that are not in the file: it was cut off. */
  missing: number;
  /** Average frames per second. */
  fps: number | undefined;
  /** Seconds of a tick of the stream's timestamps. */
  tick: number;
  /** Number of pixels of a frame according to the container; 0: it does not say. */
  pixels: number;
  rotated: boolean;
  /** The stream begins with pictures that refer to ones before it: a recording cut out of a longer one. */
  rough: boolean;
  /** Packets up to the last of those pictures. */
  lead: number;
  /** Timestamps of the packets as they are shown; undefined where some have none. */
  times: Float64Array | undefined;
  /** Undefined where packets alone do not tell which frames there are. */
  stamps: Stamps | undefined;
}
