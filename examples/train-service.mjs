// Trains over HTTP: iterations as jobs with progress and cancel; SIGTERM leaves every run resumable.
//   node examples/train-service.mjs 8010
//   curl -s localhost:8010/runs -d '{"runDir":"runs/a","model":"CHECKPOINT","iteration":1,"samples":"samples.jsonl","config":{"videos":"videos"}}'
//   curl -N localhost:8010/runs/0      # events as they come
//   curl -X DELETE localhost:8010/runs/0
import { createServer } from "node:http";
import { isIsrDpoError, readSamples, trainIteration } from "isr-dpo";

const [port, ...rest] = process.argv.slice(2);
if (!/^\d{1,5}$/.test(port) || rest.length > 0) {
  console.error("usage: node examples/train-service.mjs PORT (0: any)");
  process.exit(2);
}
const jobs = [];
const maxBody = 1 << 20;

function start({ samples, ...options }) {
  const job = { state: "running", last: null, readers: new Set(), run: undefined, end: new AbortController() };
  const given = typeof samples === "string" ? readSamples(samples) : samples;
  let begin;
  job.begun = new Promise((resolve) => {
    begin = resolve;
  });
  job.run = trainIteration({ ...options, samples: given, finish: job.end.signal });
  const tell = (event) => {
    job.last = event;
    begin();
    for (const reader of job.readers) reader.write(`data: ${JSON.stringify(event)}\n\n`);
  };
  const follow = async () => {
    for await (const event of job.run) tell(event);
    const { metrics, ...result } = await job.run.result;
    job.state = "done";
    tell({ type: "result", ...result, steps: metrics.length });
  };
  job.ended = follow()
    .catch((e) => {
      job.state = "stopped";
      tell({ type: "error", code: isIsrDpoError(e) ? e.code : e.name, message: e.message, hint: e.hint });
    })
    .finally(() => {
      for (const reader of job.readers) reader.end();
    });
  jobs.push(job);
  return job;
}

async function body(request) {
  let text = "";
  for await (const piece of request) {
    text += piece;
    if (text.length > maxBody) throw new Error("the request is too large");
  }
  return JSON.parse(text);
}

const server = createServer(async (request, response) => {
  const reply = (status, value) =>
    response.writeHead(status, { "content-type": "application/json" }).end(`${JSON.stringify(value)}\n`);
  try {
    if (request.method === "POST" && request.url === "/runs") {
      const job = start(await body(request));
      await job.begun; // its first event, or why there is none
      if (job.last.type === "error") return reply(400, job.last);
      return reply(201, { id: jobs.indexOf(job) });
    }
    const job = jobs[/^\/runs\/(\d+)$/.exec(request.url ?? "")?.[1] ?? -1];
    if (!job) return reply(404, { error: "no such run" });
    if (request.method === "DELETE") {
      job.run.abort();
      return reply(202, { state: "stopping" });
    }
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(`data: ${JSON.stringify({ state: job.state, last: job.last })}\n\n`);
    if (job.state !== "running") return response.end();
    job.readers.add(response);
    request.once("close", () => job.readers.delete(response));
  } catch (e) {
    reply(400, { error: e.message, code: e.code });
  }
});

process.once("SIGTERM", async () => {
  server.close();
  for (const { end } of jobs) end.abort(); // the group or the step at hand is done first
  await Promise.all(jobs.map((job) => job.ended));
  process.exit(0);
});

server.listen(Number(port), "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
