// Calls to one OpenAI-compatible address, bounded in time, bytes, rate and number. After a temporary failure (a busy or broken
// server, a cut connection, an answer that cannot be used) the question is asked again; any other failure is JUDGE_FAILED. The
// key is in no message: whatever a server sends back is shown without it.
import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { plural } from "../base/counts.js";
import { text } from "../base/check.js";
import { IsrDpoError } from "../base/errors.js";
import { resolved } from "../base/option-rows.js";
import type { EndpointOptions } from "../base/option-types.js";
import { type EndpointLimits, limitRows } from "./judge-options.js";

/** What was wrong with one request. */
export class Fault extends Error {
  constructor(
    message: string,
    /** It may pass: ask again. */
    readonly passing: boolean,
    /** How long the server wants to be left alone. */
    readonly afterMs?: number,
  ) {
    super(message);
  }
}

const invalid = (field: string, message: string, hint?: string) =>
  new IsrDpoError("INVALID_CONFIG", `${field}: ${message}`, { ...(hint ? { hint } : {}), detail: { field } });

export function addressOf(value: unknown): URL {
  const given = text("url", value);
  if (!URL.canParse(given)) throw invalid("url", "expected an address (https://...), got another text");
  const url = new URL(given);
  if (url.protocol !== "https:" && url.protocol !== "http:")
    throw invalid("url", `expected https:// or http://, got ${url.protocol}`);
  if (url.username !== "" || url.password !== "")
    throw invalid("url", "expected an address without user and password, got one with", "name the key by keyEnv");
  url.hash = "";
  let end = url.pathname.length;
  while (url.pathname[end - 1] === "/") end--;
  url.pathname = `${url.pathname.slice(0, end).replace(/\/chat\/completions$/, "")}/chat/completions`;
  return url;
}

function keyOf(name: string | undefined): string | undefined {
  if (name === undefined) return undefined;
  const key = process.env[text("keyEnv", name)]?.trim();
  if (!key) throw invalid("keyEnv", `expected the environment variable ${name} to hold the key, got nothing there`);
  if (!/^[\x21-\x7e]+$/.test(key))
    throw invalid("keyEnv", `expected visible ASCII in ${name}, got other characters`, "check how the key was copied");
  return key;
}

/** A text of a server's as a message shows it: one short line without control and format characters. */
export function shown(value: string, most = 200): string {
  const line = value
    .slice(0, 4 * most)
    .replace(/[\p{C}\s]+/gu, " ")
    .trim();
  return line.length > most ? `${line.slice(0, most)}...` : line;
}

/** What Retry-After asks for: seconds, or a date. */
export function retryAfter(headers: Headers, now: number): number | undefined {
  const exact = headers.get("retry-after-ms");
  if (exact !== null && /^\d{1,12}(\.\d+)?$/.test(exact.trim())) return Number(exact);
  const value = headers.get("retry-after")?.trim();
  if (!value) return undefined;
  if (/^\d{1,9}(\.\d+)?$/.test(value)) return 1000 * Number(value);
  const date = value.endsWith("GMT") ? Date.parse(value) : Number.NaN;
  return Number.isNaN(date) ? undefined : Math.max(0, date - now);
}

const passingStatus = (status: number) => status === 408 || status === 425 || status === 429 || status >= 500;

/** From 0.5 to 1, the same for the same call: callers that were refused together come back apart. */
const spread = (name: string, attempt: number): number =>
  0.5 + createHash("sha256").update(`${attempt} ${name}`).digest().readUInt32LE(0) / 2 ** 33;

/** Waits; rejects with the signal's reason. */
async function wait(ms: number, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  if (ms > 0)
    await sleep(ms, undefined, { signal }).catch((e) => {
      signal.throwIfAborted();
      throw e;
    });
}

export interface EndpointCounters {
  /** Requests that were sent. */
  calls: number;
  /** Number of them that repeated an earlier request for the same answer. */
  repeated: number;
}

/** Ends a call: `now` at once, `soon` before its next request or wait. */
export interface Ends {
  now: AbortSignal;
  soon: AbortSignal;
}

export class Endpoint {
  /** Host and path, without query: it names the endpoint in records and messages. */
  readonly name: string;
  readonly concurrency: number;
  readonly counters: EndpointCounters = { calls: 0, repeated: 0 };
  readonly #url: URL;
  readonly #key: string | undefined;
  readonly #limits: EndpointLimits;
  #running = 0;
  readonly #waiting: (() => void)[] = [];
  #nextSlot = 0; // when perMinute allows the next request
  #quietUntil = 0; // the rest that a 429 asked for applies to all requests

  constructor({ url, keyEnv, ...limits }: EndpointOptions) {
    this.#url = addressOf(url);
    this.#key = keyOf(keyEnv);
    this.#limits = resolved("", limits, limitRows);
    this.name = `${this.#url.host}${this.#url.pathname.replace(/\/chat\/completions$/, "")}`;
    this.concurrency = this.#limits.concurrency;
  }

  /** A text without the key. */
  clean(value: string): string {
    if (this.#key === undefined) return value;
    return value.replaceAll(this.#key, "[key]").replaceAll(JSON.stringify(this.#key).slice(1, -1), "[key]");
  }

  /**
   * Sends `body` until `read` takes the answer: it throws a Fault, free of the key, for one that it cannot use; `last`: there
   * will be no other. `about` names what is asked in messages. JUDGE_FAILED after the last attempt, at once for a fault that
   * does not pass, and when the budget is spent.
   */
  async ask<T>(about: string, body: object, read: (answer: unknown, last: boolean) => T, ends: Ends): Promise<T> {
    const sent = JSON.stringify(body);
    const faults: string[] = [];
    const { attempts, maxWaitS } = this.#limits;
    for (let attempt = 1; ; attempt++) {
      try {
        return read(await this.#turn(sent, attempt, ends), attempt === attempts);
      } catch (e) {
        if (!(e instanceof Fault)) throw e;
        faults.push(e.message);
        const pause = Math.max(e.afterMs ?? 0, this.#backoff(about, attempt));
        const tooLong = pause > 1000 * maxWaitS ? `, which asks for ${Math.ceil(pause / 1000)} s of rest` : "";
        if (!e.passing || attempt === attempts || tooLong) throw this.#failed(about, faults, e.passing, tooLong);
        if (e.afterMs !== undefined) this.#quietUntil = Math.max(this.#quietUntil, performance.now() + pause);
        await wait(pause, ends.soon);
      }
    }
  }

  #backoff(about: string, attempt: number): number {
    const { backoffS, maxWaitS } = this.#limits;
    return 1000 * Math.min(maxWaitS, backoffS * 2 ** (attempt - 1)) * spread(about, attempt);
  }

  #failed(about: string, faults: readonly string[], passing: boolean, tooLong: string): IsrDpoError {
    const count = faults.length;
    return new IsrDpoError(
      "JUDGE_FAILED",
      `judge ${this.name}: ${about}: expected a verdict, got ${faults.at(-1)} after ${plural(count, "request")}${tooLong}`,
      {
        hint: passing
          ? "the same command resumes when the endpoint answers again"
          : "check judge.endpoint (url, model, keyEnv); the same command resumes",
        detail: { endpoint: this.name, about, requests: count, faults: [...faults] },
      },
    );
  }

  /** One request when its turn has come. */
  async #turn(body: string, attempt: number, ends: Ends): Promise<unknown> {
    await this.#enter(ends.soon);
    try {
      await this.#slot(ends.soon);
      const { calls } = this.counters;
      if (calls >= (this.#limits.maxCalls ?? Infinity))
        throw new IsrDpoError("JUDGE_FAILED", `judge ${this.name}: the budget of ${calls} calls is spent`, {
          hint: "raise judge.endpoint.maxCalls; the same command resumes",
          detail: { endpoint: this.name, maxCalls: calls },
        });
      this.counters.calls += 1;
      if (attempt > 1) this.counters.repeated += 1;
      return await this.#request(body, ends.now);
    } finally {
      this.#running -= 1;
      this.#waiting.shift()?.();
    }
  }

  async #enter(signal: AbortSignal): Promise<void> {
    while (this.#running >= this.#limits.concurrency) {
      signal.throwIfAborted();
      await new Promise<void>((resolve) => this.#waiting.push(resolve)); // resolved when a running request ends
    }
    this.#running += 1;
  }

  /** Waits for what perMinute and the server's wish for rest allow. */
  async #slot(signal: AbortSignal): Promise<void> {
    const now = performance.now();
    const at = Math.max(now, this.#nextSlot);
    this.#nextSlot = at + 60_000 / (this.#limits.perMinute ?? Infinity);
    await wait(at - now, signal);
    for (let rest = this.#quietUntil - performance.now(); rest > 0; rest = this.#quietUntil - performance.now())
      await wait(Math.ceil(rest), signal);
  }

  async #request(body: string, life: AbortSignal): Promise<unknown> {
    const { timeoutS } = this.#limits;
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(new Fault(`no answer in ${timeoutS} s`, true)), 1000 * timeoutS);
    try {
      const response = await fetch(this.#url, {
        method: "POST",
        headers: {
          "content-type": "application/json",
          accept: "application/json",
          ...(this.#key === undefined ? {} : { authorization: `Bearer ${this.#key}` }),
        },
        body,
        redirect: "manual", // a redirection must not carry the key to another place
        signal: AbortSignal.any([life, late.signal]),
      });
      const words = await this.#read(response, late);
      if (response.status !== 200) throw this.#refusal(response, words);
      return this.#parsed(words);
    } catch (e) {
      life.throwIfAborted();
      if (e instanceof Fault) throw e;
      if (late.signal.aborted) throw late.signal.reason;
      throw new Fault(`a broken connection (${shown(this.clean(reasonOf(e)))})`, true);
    } finally {
      clearTimeout(timer);
    }
  }

  /** The body, within its bounds of bytes and pauses. */
  async #read({ body }: Response, late: AbortController): Promise<string> {
    if (!body) return "";
    const { idleS, maxBytes } = this.#limits;
    const reader = body.getReader();
    const chunks: Uint8Array[] = [];
    let size = 0;
    const stalled = () => late.abort(new Fault(`an answer that stands still for ${idleS} s`, true));
    const timer = setTimeout(stalled, 1000 * idleS);
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return Buffer.concat(chunks).toString("utf8");
        timer.refresh();
        size += value.length;
        if (size > maxBytes) throw new Fault(`an answer of more than ${maxBytes} bytes`, true);
        chunks.push(value);
      }
    } finally {
      clearTimeout(timer);
      await reader.cancel().catch(() => {});
    }
  }

  #refusal({ status, headers, type }: Response, words: string): Fault {
    if (type === "opaqueredirect" || (status >= 300 && status < 400))
      return new Fault(`HTTP ${status}, a redirection (it is not followed)`, false);
    const said = shown(this.clean(messageOf(words)));
    const passing = passingStatus(status);
    const rest = passing ? retryAfter(headers, Date.now()) : undefined;
    return new Fault(`HTTP ${status}${said === "" ? "" : ` (${said})`}`, passing, rest);
  }

  #parsed(words: string): unknown {
    if (words.trim() === "") throw new Fault("an empty answer", true);
    try {
      return JSON.parse(words);
    } catch {
      throw new Fault(`no JSON (${shown(this.clean(words), 80)})`, true);
    }
  }
}

/** A server's own words about an error, where it has them in the usual place. */
function messageOf(words: string): string {
  try {
    const { error } = JSON.parse(words) as { error?: { message?: unknown } | string };
    const said = typeof error === "string" ? error : error?.message;
    if (typeof said === "string") return said;
  } catch {
    // It is no such JSON: its text is shown as it is.
  }
  return words;
}

function reasonOf(e: unknown): string {
  const cause = (e as { cause?: { code?: unknown; message?: unknown } }).cause;
  return String(cause?.code ?? cause?.message ?? (e as Error).message);
}
