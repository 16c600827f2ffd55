// What nobody handles: rejections that would end the process.
const tick = () => new Promise((resolve) => setImmediate(resolve));

/** What becomes an unhandled rejection while `work` goes on, and shortly after. */
export async function unheard(work: () => unknown): Promise<unknown[]> {
  const others = process.listeners("unhandledRejection");
  process.removeAllListeners("unhandledRejection");
  const seen: unknown[] = [];
  process.on("unhandledRejection", (e) => seen.push(e));
  await work();
  for (let i = 0; i < 5; i++) await tick();
  process.removeAllListeners("unhandledRejection");
  for (const listener of others) process.on("unhandledRejection", listener);
  return seen;
}
