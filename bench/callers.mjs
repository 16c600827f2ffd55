// Callers who ask one engine at the same time, each again as soon as it is answered: the same requests for every engine, and
// what the callers see.

/** The value below which the share `q` of `values` lies. */
export const quantile = (values, q) =>
  [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(q * values.length))];

/** Token ids of a prompt that no other number has, so that no call finds another's rows. */
export const promptIds = (n, length) => Int32Array.from({ length }, (_, t) => 300 + ((n * 7919 + t * 131) % 30000));

/** Ask number `n`: prompts of 32 to 127 tokens and answers of 32 to 63, so that callers do not go in step. */
export const askOf = (n) => ({ n, ids: promptIds(n, 32 + ((n * 37) % 96)), tokens: 32 + ((n * 13) % 32) });

export async function seconds(work) {
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1e3;
}

/**
 * `count` callers with `asks` questions each, numbered from `from`. `answer(ask, caller, token)` answers one and calls `token`
 * with each token's id as it comes. Gives the tokens per second of all, and of each ask its first token and the milliseconds to
 * the first and to the last one.
 */
export async function callers({ count, asks, from }, answer) {
  const [first, last, began] = [[], [], {}];
  let tokens = 0;
  const ask = async (n, caller) => {
    const asked = askOf(n);
    const started = performance.now();
    let seen = 0;
    await answer(asked, caller, (id) => {
      if (seen++ > 0) return;
      first.push(performance.now() - started);
      began[n] = id;
    });
    last.push(performance.now() - started);
    if (seen !== asked.tokens) throw new Error(`ask ${n}: ${seen} tokens came, expected ${asked.tokens}`);
    tokens += seen;
  };
  const took = await seconds(() =>
    Promise.all(
      Array.from({ length: count }, async (_, caller) => {
        for (let i = 0; i < asks; i++) await ask(from + i * count + caller, caller);
      }),
    ),
  );
  return { rate: tokens / took, first, last, began };
}
