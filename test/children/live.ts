// A run's last moments: a page with a reader that stays connected and does not count for this process, and nothing else to do.
import { connect } from "node:net";
import { setTimeout } from "node:timers/promises";
import { LiveServer } from "../../src/report/live-server.js";

const server = await LiveServer.open({ kind: "dpo", title: "child" });
const { port, search } = new URL(server.url);
const reader = connect(Number(port), "127.0.0.1").unref().resume();
reader.write(`GET /events${search} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\n\r\n`);
while (server.readers.count === 0) await setTimeout(5);
console.log(`readers ${server.readers.count}`);
if (process.argv[2] === "end") await server.end({ state: "done" });
console.log("last line");
