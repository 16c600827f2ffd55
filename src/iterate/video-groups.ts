// The unit of work is a group of videos: they are sampled, described and judged together, and lost together if the process
// dies. The groups depend on the samples and the group size alone.
import type { Sample } from "../data/read-samples.js";

export interface VideoSamples {
  video: string;
  /** In the order of the prompt set. */
  samples: readonly Sample[];
}

export interface Group {
  /** Its number as text: the name of its end record. */
  name: string;
  videos: readonly VideoSamples[];
}

/** Videos in the order of their first sample. */
export function byVideo(samples: readonly Sample[]): VideoSamples[] {
  const found = new Map<string, Sample[]>();
  for (const sample of samples) {
    const list = found.get(sample.video);
    if (list) list.push(sample);
    else found.set(sample.video, [sample]);
  }
  return [...found].map(([video, list]) => ({ video, samples: list }));
}

export function groupsOf(samples: readonly Sample[], videosAGroup: number): Group[] {
  const videos = byVideo(samples);
  const groups: Group[] = [];
  for (let at = 0; at < videos.length; at += videosAGroup)
    groups.push({ name: String(groups.length), videos: videos.slice(at, at + videosAGroup) });
  return groups;
}
