// Options of judges, one row each: in calls and in configuration files.
import { address, oneOf, real, type Resolved, whole, words } from "../base/option-rows.js";

/** How a judge is asked about two answers. */
export const judgeRows = {
  orders: oneOf(
    "Whether each pair is judged in one order of its answers, as in the paper, or in both; orders that disagree prefer none.",
    "one",
    "both",
  ),
  method: oneOf(
    "How a model's choice is read: from its text, or as the label with the higher log-prob.",
    "text",
    "logprob",
  ),
};

/** Options of judgeFile(). */
export const judgeFileRows = {
  orders: judgeRows.orders.or("both"),
  batch: whole("Rows that are judged at the same time.", 1, 4096).or(16),
};

const seconds = (about: string) => real(about, { above: 0, max: 86_400 });

/** Bounds of the requests to an endpoint. */
export const limitRows = {
  maxCalls: whole("Largest number of requests, repeated ones included; default: no bound.", 1),
  concurrency: whole("Number of concurrent requests.", 1, 256).or(4),
  perMinute: whole("Largest number of requests per minute, evenly spaced; default: no bound.", 1),
  timeoutS: seconds("Longest time of a request in seconds.").or(60),
  idleS: seconds("Longest pause inside an answer that has begun, in seconds.").or(15),
  attempts: whole("Largest number of requests for one answer.", 1, 100).or(6),
  backoffS: seconds(
    "First wait between them, in seconds, doubled each time. A Retry-After of the server's wins over it.",
  ).or(1),
  maxWaitS: seconds("Longest wait, in seconds. A server that asks for more is not waited for.").or(120),
  maxBytes: whole("Longest answer in bytes.", 1).or(1 << 20),
};

/** An endpoint with its bounds. */
export const endpointRows = {
  url: address("Base address of an OpenAI-compatible API, up to and without /chat/completions.").required(),
  keyEnv: words("Name of the environment variable that holds the key; default: no key is sent."),
  ...limitRows,
};

export const endpointKeys: readonly string[] = Object.keys(endpointRows);

/** Bounds of the requests to an endpoint, checked and filled up with their defaults. */
export type EndpointLimits = Resolved<typeof limitRows>;
