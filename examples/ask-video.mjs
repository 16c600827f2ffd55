// node examples/ask-video.mjs CHECKPOINT VIDEO: two questions about one video file; it is decoded and encoded once.
import { loadModel } from "isr-dpo";

const [dir, video, ...rest] = process.argv.slice(2);
if (!dir || dir.startsWith("-") || !video || rest.length > 0) {
  console.error("usage: node examples/ask-video.mjs CHECKPOINT VIDEO");
  process.exit(2);
}
const model = await loadModel(dir);
const session = model.session(); // keeps what has been read: the second question costs its own words only
const shown = (text) => text.replace(/\p{Cc}/gu, " "); // a model may write anything, also what moves a cursor
const messages = [];
for (const text of ["What happens in the video?", "What happens first?"]) {
  const media = { kind: "video", path: video }; // as many frames as the model was trained with
  const question = { type: "text", text };
  messages.push({ role: "user", content: messages.length ? text : [{ type: "video", media }, question] });
  const run = session.generate({ prompt: messages, maxTokens: 24 });
  for await (const event of run) if (event.type === "text") process.stdout.write(shown(event.text));
  const [answer] = await run;
  messages.push({ role: "assistant", content: answer.text });
  console.log(
    ` (${answer.finishReason}; decoded ${model.counters.decodes}, tower passes ${model.counters.towerPasses})`,
  );
}
await session.dispose();
await model.dispose();
