// The control of a group of ranks: they meet at rank 0, and say what they are and where they can be reached. Threads of their own then show
// every second that they live and that their work goes on (watch.ts). Whoever ends, falls silent, is stuck, or gives up ends the work of
// all with RANK_LOST, which names it.
import { hostname } from "node:os";
import { connect, createServer, type Server, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { plural } from "../../base/counts.js";
import { type ErrorCode, IsrDpoError, isIsrDpoError } from "../../base/errors.js";
import { type Line, Lines, same } from "./control-lines.js";
import { loopbackOf, Watch } from "./watch.js";

/** What ranks need to meet. */
export interface Meeting {
  rank: number;
  size: number;
  host: string;
  port: number;
  /** Who does not know it is no rank of this job. */
  token: string;
  /** What has to be equal on all ranks, by name: versions, settings. */
  facts: Readonly<Record<string, string>>;
  /** Longest wait until all ranks are there, in milliseconds. */
  timeoutMs: number;
  /** Silence after which a rank counts as lost, in milliseconds. */
  silenceMs: number;
  /** Time without a sign of progress after which a rank counts as stuck, in milliseconds; 0: never. */
  stuckMs: number;
  signal: AbortSignal | undefined;
}

/** What a rank tells of itself when it arrives. */
interface Hello {
  rank: number;
  size: number;
  where: string;
  facts: Readonly<Record<string, string>>;
  offer: unknown;
}

const beatMs = 1000;
const where = (): string => `${hostname()}, process ${process.pid}`;
const again = "the ranks that are left cannot go on; start all of them again with the same command, and they resume";

/** RANK_LOST, as all ranks tell it. */
export const lostError = (reason: string): IsrDpoError => new IsrDpoError("RANK_LOST", reason, { hint: again });
const refusal = (code: ErrorCode, message: string, hint: string): Line => ({ kind: "refused", code, message, hint });
const errorOf = ({ code, message, hint }: Line): IsrDpoError =>
  new IsrDpoError(code as ErrorCode, String(message), { hint: String(hint) });

/** What differs between a rank and rank 0: a sentence, or undefined. */
function difference(mine: Hello, theirs: Hello): string | undefined {
  const name = `rank ${theirs.rank} (${theirs.where})`;
  if (theirs.size !== mine.size) return `${name} expects ${plural(theirs.size, "rank")}, rank 0 ${mine.size}`;
  const keys = [...new Set([...Object.keys(mine.facts), ...Object.keys(theirs.facts)])];
  const key = keys.find((k) => mine.facts[k] !== theirs.facts[k]);
  if (key === undefined) return undefined;
  return `${name}: ${key} is ${theirs.facts[key] ?? "missing"}, on rank 0 ${mine.facts[key] ?? "missing"}`;
}

/** Answers what a rank asks. */
export type Dealer = (rank: number, question: unknown) => unknown;

interface Member extends Hello {
  lines: Lines;
  stage: string;
  /** It has said that it is done. */
  left: boolean;
}

/** Rank 0's side: all ranks, its own among them, are members. */
class Hub {
  readonly #m: Meeting;
  readonly #server: Server;
  /** What rank 0 says of itself. */
  readonly mine: Hello;
  readonly #members = new Map<number, Member>();
  readonly #answers = new Map<string, Map<number, unknown>>(); // of a round: what each rank has said
  readonly #dealers = new Map<string, Dealer>();
  #asked: { member: Member; line: Line }[] = []; // of those that rank 0 does not deal yet
  #reports: unknown[] = [];
  #listen: ((report: unknown) => void) | undefined;
  #state: "gathering" | "running" | "over" = "gathering";
  #beats: NodeJS.Timeout | undefined;
  readonly #watch: Watch;

  constructor(m: Meeting, mine: Hello) {
    this.#m = m;
    this.#watch = Watch.lead(m);
    this.mine = { ...mine, offer: { ...(mine.offer as object), beatPort: this.#watch.port } };
    this.#server = createServer((socket) => this.#arrive(socket));
    this.#server.maxConnections = 4 * m.size + 64;
  }

  async listen(): Promise<void> {
    const { host, port } = this.#m;
    const local = loopbackOf(host) !== "";
    await new Promise<void>((resolve, reject) => {
      this.#server.once("error", (e: NodeJS.ErrnoException) =>
        reject(
          new IsrDpoError(
            "DEVICE_UNAVAILABLE",
            `rank 0 cannot listen on port ${port}${local ? ` of ${host}` : ""}: ${e.message}`,
            { hint: "another process has the port: give another one, or end that process", cause: e },
          ),
        ),
      );
      this.#server.listen(local ? { host, port } : { port }, resolve);
    });
    this.#server.unref();
  }

  #arrive(socket: Socket): void {
    let member: Member | undefined;
    const stranger = setTimeout(() => socket.destroy(), 10_000).unref(); // who says nothing is nobody
    const lines = new Lines(
      socket,
      (line) => {
        if (member) return this.#hear(member, line);
        clearTimeout(stranger);
        member = this.#admit(lines, line);
        if (!member) lines.close();
      },
      (reason) => {
        clearTimeout(stranger);
        if (member && !member.left) this.#lose(member, reason);
      },
    );
  }

  #admit(lines: Lines, line: Line): Member | undefined {
    if (line.kind !== "hello" || !same(line.token, this.#m.token)) {
      lines.send(refusal("INVALID_ARGUMENT", "this is another job's rank 0", "the ranks' tokens or addresses differ"));
      return undefined;
    }
    const hello = line.hello as Hello;
    const differs = difference(this.mine, hello);
    if (differs !== undefined) {
      this.#refuse(lines, refusal("RUN_MISMATCH", differs, "start all ranks with one command and one version"));
      return undefined;
    }
    const there = this.#members.get(hello.rank);
    if (there) {
      const twice = `rank ${hello.rank} has come twice: from ${there.where} and from ${hello.where}`;
      this.#refuse(lines, refusal("INVALID_ARGUMENT", twice, "start each rank once"));
      return undefined;
    }
    const member: Member = { ...hello, lines, stage: "meeting", left: false };
    this.#members.set(hello.rank, member);
    this.#say("offers", hello.rank, hello.offer);
    return member;
  }

  /** One that cannot belong to this job ends it for all while they meet; afterwards it is only sent away. */
  #refuse(lines: Lines, line: Line): void {
    lines.send(line);
    if (this.#state === "gathering") this.#end(line);
  }

  #hear(member: Member, line: Line): void {
    if (line.kind === "beat") member.stage = String(line.stage);
    else if (line.kind === "leave") member.left = true;
    else if (line.kind === "abort") this.#end({ kind: "lost", reason: String(line.reason) });
    else if (line.kind === "say") this.#say(String(line.round), member.rank, line.value);
    else if (line.kind === "ask") this.#deal(member, line);
    else if (line.kind === "report") this.#report(line.value);
    if (line.kind === "leave" && [...this.#members.values()].every((m) => m.left)) this.close();
  }

  #deal(member: Member, line: Line): void {
    const dealer = this.#dealers.get(String(line.of));
    if (dealer) member.lines.send({ kind: "dealt", value: dealer(member.rank, line.value) });
    else this.#asked.push({ member, line }); // rank 0 comes later
  }

  /** From now on `dealer` answers what ranks ask of `name`; null: nobody does, until there is another. */
  deal(name: string, dealer: Dealer | null): void {
    if (!dealer) return void this.#dealers.delete(name);
    this.#dealers.set(name, dealer);
    const asked = this.#asked;
    this.#asked = [];
    for (const { member, line } of asked) this.#deal(member, line);
  }

  #report(value: unknown): void {
    if (this.#listen) this.#listen(value);
    else this.#reports.push(value);
  }

  /** Who hears what other ranks report, in their order; what came before is heard first. */
  listenTo(listen: (report: unknown) => void): void {
    this.#listen = listen;
    for (const value of this.#reports.splice(0)) listen(value);
  }

  /** When all ranks have said something in a round, each of them is told all of it. */
  #say(round: string, rank: number, value: unknown): void {
    const said = this.#answers.get(round) ?? new Map<number, unknown>();
    this.#answers.set(round, said.set(rank, value));
    if (said.size < this.#m.size) return;
    this.#answers.delete(round);
    const values = Array.from({ length: this.#m.size }, (_, r) => said.get(r));
    for (const m of this.#members.values()) m.lines.send({ kind: "said", round, values });
    if (round === "offers") this.#begin();
  }

  #begin(): void {
    this.#state = "running";
    this.#watch.begin();
    this.#beats = every(beatMs, () => {
      if (this.#state === "over") return;
      this.#watch.look();
      const present = [...this.#members.values()].filter((m) => !m.left);
      for (const m of present) {
        m.lines.send({ kind: "beat" });
        const trouble = this.#watch.trouble(m.rank, m.lines.heard);
        if (trouble !== undefined) return this.#lose(m, trouble);
      }
      const seconds = this.#watch.deadlock(present.map((m) => m.rank));
      if (seconds !== undefined)
        this.#end({ kind: "lost", reason: `the ranks have waited for each other for ${seconds} s, and none goes on` });
    });
  }

  #lose(m: Member, reason: string): void {
    const stage = m.stage === "" ? "" : ` in ${m.stage}`;
    this.#end({ kind: "lost", reason: `rank ${m.rank} (${m.where}) was lost${stage}: ${reason}` });
  }

  /** Sends those away who have come: the others did not. */
  giveUp(): void {
    const absent = Array.from({ length: this.#m.size }, (_, r) => r).filter((r) => !this.#members.has(r));
    const who = `${plural(absent.length, "rank")} of ${this.#m.size} did not come: ${absent.join(", ")}`;
    const message = `${who} (waited ${this.#m.timeoutMs / 1000} s)`;
    this.#end(refusal("RANK_LOST", message, "see why those processes did not start, or raise timeoutMs"));
  }

  #end(line: Line): void {
    if (this.#state === "over") return;
    this.#state = "over";
    for (const m of this.#members.values()) {
      m.left = true;
      m.lines.send(line);
    }
    this.close();
  }

  close(): void {
    this.#state = "over";
    clearInterval(this.#beats);
    this.#watch.end();
    this.#server.close();
    for (const m of this.#members.values()) m.lines.close();
  }
}

/**
 * Calls `work` at intervals, behind what has come over connections: a thread that was busy first reads what others have said meanwhile, which
 * a write to a connection that they have closed would lose.
 */
function every(ms: number, work: () => void): NodeJS.Timeout {
  return setInterval(() => setImmediate(work), ms).unref();
}

interface Waiting<T> {
  resolve(value: T): void;
  reject(e: unknown): void;
}

/** A rank's side. */
export class Control {
  readonly #m: Meeting;
  readonly #hub: Hub | undefined;
  readonly #lines: Lines;
  readonly #rounds = new Map<string, Waiting<unknown[]>>();
  #asking: Waiting<unknown> | undefined;
  readonly #life = new AbortController();
  #beats: NodeJS.Timeout | undefined;
  #left = false;
  #watch: Watch | undefined; // of rank 0, on the others
  /** What this rank is at, for the others' error if it is lost. */
  stage = "";

  private constructor(m: Meeting, hub: Hub | undefined, socket: Socket) {
    this.#m = m;
    this.#hub = hub;
    this.#lines = new Lines(
      socket,
      (line) => this.#hear(line),
      (reason) => this.#fail(lostError(`rank 0 (${m.host}, port ${m.port}) was lost: ${reason}`)),
    );
  }

  /** Aborted, with the error, when the work of all ranks is at an end. */
  get lost(): AbortSignal {
    return this.#life.signal;
  }

  /** Address of this machine as rank 0 sees it. */
  get localAddress(): string {
    return (this.#lines.socket.localAddress ?? "127.0.0.1").replace(/^::ffff:/, "");
  }

  /** Meets the other ranks; `offer` is what this one tells them, and the result what each of them has told. */
  static async meet(m: Meeting, offer: unknown): Promise<{ control: Control; offers: unknown[] }> {
    const hello: Hello = { rank: m.rank, size: m.size, where: where(), facts: m.facts, offer };
    const hub = m.rank === 0 ? new Hub(m, hello) : undefined;
    await hub?.listen().catch((e) => {
      hub.close();
      throw e;
    });
    const late = hub && setTimeout(() => hub.giveUp(), m.timeoutMs).unref();
    const deadline = AbortSignal.timeout(m.timeoutMs + 2000); // rank 0 knows better who is missing: it speaks first
    const signals = [deadline, ...(m.signal ? [m.signal] : [])];
    let control: Control | undefined;
    try {
      control = new Control(m, hub, await reach(m, AbortSignal.any(signals)));
      const offers = control.#round("offers");
      control.#lines.send({ kind: "hello", token: m.token, hello: hub?.mine ?? hello });
      const stopped = new Promise<never>((_, reject) => {
        for (const s of signals) s.addEventListener("abort", () => reject(s.reason), { once: true });
      });
      const values = await Promise.race([offers, stopped]);
      control.#begin((values[0] as { beatPort: number }).beatPort);
      return { control, offers: values };
    } catch (e) {
      if (control) control.#fail(e);
      hub?.close();
      m.signal?.throwIfAborted();
      if (!deadline.aborted || isIsrDpoError(e)) throw e;
      throw new IsrDpoError(
        "RANK_LOST",
        `rank 0 did not answer at ${m.host}, port ${m.port} (waited ${m.timeoutMs / 1000} s)`,
        {
          hint: "see why rank 0 did not start, or give the address at which it can be reached",
        },
      );
    } finally {
      clearTimeout(late);
    }
  }

  #begin(beatPort: number): void {
    if (!this.#hub) this.#watch = Watch.join(this.#m, this.#lines.socket.remoteAddress ?? this.#m.host, beatPort);
    this.#watch?.begin();
    this.#beats = every(beatMs, () => {
      if (this.#left) return;
      this.#lines.send({ kind: "beat", stage: this.stage });
      this.#watch?.look();
      const trouble = this.#watch?.trouble(0, this.#lines.heard);
      if (trouble !== undefined) this.abort(`rank 0 (${this.#m.host}) was lost: ${trouble}`);
    });
  }

  #round(name: string): Promise<unknown[]> {
    return new Promise((resolve, reject) => this.#rounds.set(name, { resolve, reject }));
  }

  /** Tells all ranks something; the result is what each has told in this round. */
  async tell(round: string, value: unknown): Promise<unknown[]> {
    this.#life.signal.throwIfAborted();
    const values = this.#round(round);
    this.#lines.send({ kind: "say", round, value });
    return await values;
  }

  /** Asks rank 0's dealer of `name`, one question at a time. */
  async ask(name: string, question: unknown): Promise<unknown> {
    this.#life.signal.throwIfAborted();
    const answer = new Promise<unknown>((resolve, reject) => {
      this.#asking = { resolve, reject };
    });
    this.#lines.send({ kind: "ask", of: name, value: question });
    return await answer;
  }

  /** Tells rank 0, which does not answer. */
  report(value: unknown): void {
    this.#lines.send({ kind: "report", value });
  }

  /** Rank 0's own side; undefined on the others. */
  get hub(): Pick<Hub, "deal" | "listenTo"> | undefined {
    return this.#hub;
  }

  #hear(line: Line): void {
    if (line.kind === "dealt") this.#asking?.resolve(line.value);
    else if (line.kind === "said") {
      this.#rounds.get(String(line.round))?.resolve(line.values as unknown[]);
      this.#rounds.delete(String(line.round));
    } else if (line.kind === "refused") this.#fail(errorOf(line));
    else if (line.kind === "lost") this.#fail(lostError(String(line.reason)));
  }

  #fail(e: unknown): void {
    if (this.#left) return;
    this.#left = true;
    clearInterval(this.#beats);
    this.#watch?.end();
    for (const { reject } of [...this.#rounds.values(), ...(this.#asking ? [this.#asking] : [])]) reject(e);
    this.#rounds.clear();
    this.#life.abort(e);
    this.#lines.close();
  }

  /** Ends the work of all ranks. */
  abort(reason: string): void {
    this.#lines.send({ kind: "abort", reason });
    this.#fail(lostError(reason));
  }

  /** Says that this rank is done; rank 0 stays for the others as long as its process lives, and no longer. */
  async leave(): Promise<void> {
    if (this.#left) return;
    this.#left = true;
    clearInterval(this.#beats);
    this.#lines.send({ kind: "leave" });
    this.#watch?.end();
    if (!this.#hub) return this.#lines.close();
    const ended = new Promise<void>((resolve) => this.#lines.socket.once("close", () => resolve()));
    await Promise.race([ended, sleep(this.#m.silenceMs, undefined, { ref: false })]);
    this.#hub.close();
    this.#lines.close();
  }
}

/** A connection to rank 0, which may not listen yet. */
async function reach(m: Meeting, signal: AbortSignal): Promise<Socket> {
  for (;;) {
    const socket = await new Promise<Socket | undefined>((resolve) => {
      const s = connect({ host: m.host, port: m.port });
      const settle = (found: Socket | undefined) => {
        signal.removeEventListener("abort", giveUp);
        s.removeAllListeners("error");
        resolve(found);
      };
      const giveUp = () => {
        s.destroy(); // where nothing answers, not even with a refusal, the system would try for two minutes
        settle(undefined);
      };
      signal.addEventListener("abort", giveUp, { once: true });
      s.once("connect", () => settle(s));
      s.once("error", () => settle(undefined));
    });
    if (socket) return socket;
    signal.throwIfAborted();
    await sleep(100, undefined, { signal }).catch(() => signal.throwIfAborted());
  }
}
