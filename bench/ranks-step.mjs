// A rank of bench/ranks.mjs: a few steps on its part of the pairs, as JSON.
const { library, checkpoint, rank, size, address, token, dtype, pairs } = JSON.parse(process.argv[2]);
const { createCommunicator, createTrainer, loadModel } = await import(library);

const ids = (seed, n) => Int32Array.from({ length: n }, (_, i) => 3 + ((i * 7919 + seed * 104729) % 20000));
const lossMask = (prompt, answer) => Uint8Array.from({ length: prompt + answer }, (_, i) => Number(i >= prompt));
function pair(i) {
  const prompt = ids(i, 560);
  const answer = (seed, n) => ({ ids: Int32Array.from([...prompt, ...ids(seed, n)]), lossMask: lossMask(560, n) });
  return { chosen: answer(i + 50, 97), rejected: answer(i + 90, 65) };
}

const communicator = await createCommunicator({ rank, size, address, token });
const model = await loadModel(checkpoint, { threads: 1, dtype });
const trainer = await createTrainer(model, { learningRate: 1e-6, microBatchTokens: 1, communicator });
const mine = Array.from({ length: pairs }, (_, i) => pair(i)).slice((pairs * rank) / size, (pairs * (rank + 1)) / size);
const references = await trainer.score(mine);
const items = mine.map((p, i) => ({ ...p, reference: references[i] }));
const seconds = [];
const share = [];
for (let step = 0; step < 3; step++) {
  const metrics = await trainer.trainStep(items);
  if (step === 0) continue; // pages are touched for the first time
  seconds.push(metrics.seconds);
  share.push(Math.max(0, ...(metrics.ranks ?? []).map((r) => r.communicationSeconds)) / metrics.seconds);
}
console.log(JSON.stringify({ seconds, share }));
await communicator.dispose();
await model.dispose();
