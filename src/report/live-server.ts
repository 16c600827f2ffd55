// The live page of a run: a server on loopback that answers two addresses to clients that have its token, and never keeps the
// process alive.
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { IsrDpoError } from "../base/errors.js";
import type { IterationEvent } from "../train/run-events.js";
import { clientLimit, Clients } from "./live-clients.js";
import { type LivePage, livePage } from "./live-page.js";
import { type Change, LiveState, type Outcome } from "./live-state.js";

const host = "127.0.0.1";
const endMs = 1_000;

export interface LiveOptions {
  /** 0 (default): one that is free. */
  port?: number;
  kind: "sft" | "dpo";
  /** What the page calls the run. */
  title: string;
}

const common = {
  "Cache-Control": "no-store",
  "Referrer-Policy": "no-referrer",
  "X-Content-Type-Options": "nosniff",
  "Cross-Origin-Resource-Policy": "same-origin",
};

/** Compares in a time that does not depend on where the texts differ. */
function same(a: string, b: string): boolean {
  const [x, y] = [a, b].map((text) => createHash("sha256").update(text).digest());
  return timingSafeEqual(x!, y!);
}

interface Refusal {
  status: number;
  text: string;
  headers?: Record<string, string>;
}

function refuse(response: ServerResponse, { status, text, headers }: Refusal): void {
  response.writeHead(status, { ...common, ...headers, "Content-Type": "text/plain; charset=utf-8" }).end(`${text}\n`);
}

async function listen(server: Server, port: number): Promise<number> {
  await new Promise<void>((done, fail) => {
    server.once("error", (e: NodeJS.ErrnoException) => {
      const taken = e.code === "EADDRINUSE";
      const got = taken ? "a port that is in use" : e.message;
      const hint = taken
        ? "give another port, or none for a free one"
        : "give a port of 1024 or more, or none for a free one";
      fail(new IsrDpoError("IO", `live page: expected to listen on ${host}:${port}, got ${got}`, { hint, cause: e }));
    });
    server.listen({ host, port, exclusive: true }, done);
  });
  server.on("error", () => {}); // an error of a later connection: the run goes on without its page
  return (server.address() as AddressInfo).port;
}

export class LiveServer {
  readonly #state = new LiveState();
  readonly #clients = new Clients();
  readonly #token = randomBytes(32).toString("base64url");
  readonly #server: Server;
  readonly #page: LivePage;
  #hosts: readonly string[] = [];
  #port = 0;

  private constructor(page: LivePage) {
    this.#page = page;
    this.#server = createServer({ maxHeaderSize: 8192 }, (request, response) => this.#answer(request, response));
    this.#server.maxConnections = 4 * clientLimit;
    this.#server.on("connection", (socket) => socket.unref());
    this.#server.unref();
  }

  /** IO: the port is taken or not allowed. */
  static async open({ port = 0, kind, title }: LiveOptions): Promise<LiveServer> {
    const live = new LiveServer(await livePage(kind, title));
    live.#port = await listen(live.#server, port);
    const bare = live.#port === 80 ? [host, "localhost"] : []; // browsers leave the usual port away
    live.#hosts = [`${host}:${live.#port}`, `localhost:${live.#port}`, ...bare];
    return live;
  }

  /** With the token: who has it sees the run. */
  get url(): string {
    return `http://${host}:${this.#port}/?token=${this.#token}`;
  }

  /** The number of readers, the number of readers that were disconnected, and the most bytes that wait for one reader. */
  get readers(): { count: number; dropped: number; waiting: number } {
    const { count, dropped, waiting } = this.#clients;
    return { count, dropped, waiting };
  }

  event(e: IterationEvent): void {
    for (const change of this.#state.take(e)) this.#tell(change);
  }

  /** Tells how the run ended and closes; at most a second. */
  async end(outcome: Outcome): Promise<void> {
    this.#tell(this.#state.end(outcome));
    this.#server.close();
    await this.#clients.end(endMs);
    this.#server.closeAllConnections();
  }

  #tell({ name, data }: Change): void {
    this.#clients.tell(name, data);
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const { host: named, origin } = request.headers;
    const method = request.method ?? "";
    const address = `http://${named}${request.url}`;
    const url = request.url?.startsWith("/") && URL.canParse(address) ? new URL(address) : undefined;
    const tokens = url?.searchParams.getAll("token") ?? [];
    // A page of another origin may reach this server by a name whose DNS points here: the Host header tells.
    if (named === undefined || !this.#hosts.includes(named)) refuse(response, { status: 403, text: "wrong host" });
    else if (origin !== undefined && origin !== `http://${named}`)
      refuse(response, { status: 403, text: "wrong origin" });
    else if (method !== "GET" && method !== "HEAD")
      refuse(response, { status: 405, text: "GET or HEAD", headers: { Allow: "GET, HEAD" } });
    else if (url?.pathname !== "/" && url?.pathname !== "/events") refuse(response, { status: 404, text: "not found" });
    else if (tokens.length !== 1 || !same(tokens[0]!, this.#token))
      refuse(response, { status: 403, text: "wrong token" });
    else if (url.pathname === "/") this.#sendPage(response, method);
    else this.#sendEvents(response, method);
  }

  #sendPage(response: ServerResponse, method: string): void {
    const { html, policy } = this.#page;
    response.writeHead(200, {
      ...common,
      "Content-Type": "text/html; charset=utf-8",
      "Content-Length": Buffer.byteLength(html),
      "Content-Security-Policy": policy,
    });
    response.end(method === "HEAD" ? undefined : html);
  }

  #sendEvents(response: ServerResponse, method: string): void {
    if (this.#clients.count >= clientLimit) {
      refuse(response, { status: 503, text: `at most ${clientLimit} readers`, headers: { "Retry-After": "5" } });
      return;
    }
    response.writeHead(200, { ...common, "Content-Type": "text/event-stream; charset=utf-8" });
    if (method === "HEAD") response.end();
    else this.#clients.add(response, this.#state.snapshot);
  }
}
