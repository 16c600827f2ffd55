// node examples/service.mjs CHECKPOINT PORT: POST {"ids": [..]} or {"text": ".."} gets the greedy continuation; a client that leaves cancels its own work.
import { createServer } from "node:http";
import { json } from "node:stream/consumers";
import { isIsrDpoError, loadModel } from "isr-dpo";

const [dir, port, ...rest] = process.argv.slice(2);
if (!dir || dir.startsWith("-") || !/^\d{1,5}$/.test(port) || rest.length > 0) {
  console.error("usage: node examples/service.mjs CHECKPOINT PORT (0: any)");
  process.exit(2);
}
const model = await loadModel(dir);
const server = createServer(async (request, response) => {
  const gone = new AbortController();
  response.on("close", () => gone.abort());
  try {
    const { ids, text } = await json(request);
    // Special tokens that somebody types ("<|im_end|>") stay words.
    const asked = { prompt: text ?? { ids }, specialTokens: "text", maxTokens: 16 };
    const [answer] = await model.generate(asked, { signal: gone.signal });
    response.end(JSON.stringify({ ids: [...answer.ids], end: answer.end }));
  } catch (error) {
    response.statusCode = isIsrDpoError(error, "INVALID_ARGUMENT") ? 400 : 500;
    response.end(JSON.stringify({ code: error.code, message: error.message }));
  }
});
server.listen(Number(port), "127.0.0.1", () => console.log(`listening on ${server.address().port}`));
