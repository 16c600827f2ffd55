// Answers over HTTP: the greedy continuation of {"ids": [..]}, or of {"text": ".."} as one turn of a user. A client that leaves
// cancels its own work; SIGTERM answers what was asked and ends.
//   node examples/service.mjs CHECKPOINT 8011
//   curl -s localhost:8011 -d '{"text":"what happens ?"}'
import { createServer } from "node:http";
import { json } from "node:stream/consumers";
import { isIsrDpoError, loadModel } from "isr-dpo";

const [dir, port, ...rest] = process.argv.slice(2);
if (!dir || dir.startsWith("-") || !/^\d{1,5}$/.test(port) || rest.length > 0) {
  console.error("usage: node examples/service.mjs CHECKPOINT PORT (0: any)");
  process.exit(2);
}
const model = await loadModel(dir);
const theirs = ["INVALID_ARGUMENT", "CONTEXT_OVERFLOW", "PLACEHOLDER_MISMATCH"]; // what the client can put right

const server = createServer(async (request, response) => {
  const gone = new AbortController();
  response.on("close", () => gone.abort());
  const reply = (status, value) =>
    response.writeHead(status, { "content-type": "application/json" }).end(`${JSON.stringify(value)}\n`);
  try {
    const { ids, text } = (await json(request)) ?? {};
    if ((ids === undefined) === (text === undefined))
      return reply(400, { message: 'expected {"ids": ..} or {"text": ..}' });
    // Special tokens that somebody types ("<|im_end|>") stay words.
    const asked = { prompt: text ?? { ids }, specialTokens: "text", maxTokens: 16 };
    const [answer] = await model.generate(asked, { signal: gone.signal });
    reply(200, { text: answer.text, ids: [...answer.ids], finishReason: answer.finishReason });
  } catch (error) {
    const bad = error instanceof SyntaxError || (isIsrDpoError(error) && theirs.includes(error.code));
    reply(bad ? 400 : 500, { code: error.code, message: error.message });
  }
});

process.once("SIGTERM", () => server.close(() => model.dispose()));

server.listen(Number(port), "127.0.0.1", () => console.log(`listening on ${server.address().port}`));
