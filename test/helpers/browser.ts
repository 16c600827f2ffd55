// A page in Chromium: what it logs, what it asks for, and its picture where a test wants one. Needs a chromium on this machine.
import { existsSync, mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { delimiter, join } from "node:path";
import { pathToFileURL } from "node:url";

// The part of playwright-core that is used.
interface Page {
  on(event: "console", take: (message: { type(): string; text(): string }) => void): void;
  on(event: "pageerror", take: (e: Error) => void): void;
  on(event: "request", take: (request: { url(): string }) => void): void;
  goto(url: string): Promise<unknown>;
  // biome-ignore lint/suspicious/noExplicitAny: what a script of the page gives
  evaluate(script: string): Promise<any>;
  keyboard: { press(key: string): Promise<void>; type(text: string): Promise<void> };
  click(selector: string): Promise<void>;
  selectOption(selector: string, value: string): Promise<unknown>;
  emulateMedia(o: { media?: "print" | "screen" }): Promise<void>;
  screenshot(o: { path: string; fullPage: boolean }): Promise<unknown>;
  close(): Promise<void>;
}
interface Browser {
  newPage(o: { viewport: { width: number; height: number }; colorScheme: "light" | "dark" }): Promise<Page>;
  close(): Promise<void>;
}

const names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/** The browser of this machine: CHROMIUM of the environment, else on PATH. */
function chromium(): string | undefined {
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  const folders = (process.env.PATH ?? "").split(delimiter);
  return folders.flatMap((dir) => names.map((name) => join(dir, name))).find((path) => existsSync(path));
}

/** A browser, or what is missing. One that CHROMIUM names has to start; what lies on PATH may be a stub that cannot. */
export async function browser(): Promise<{ b: Browser; missing?: undefined } | { b?: undefined; missing: string }> {
  const executablePath = chromium();
  if (executablePath === undefined) return { missing: "no Chromium on this machine" };
  const playwright = createRequire(import.meta.url)("playwright-core") as {
    chromium: { launch(o: { executablePath: string; args: string[] }): Promise<Browser> };
  };
  try {
    return { b: await playwright.chromium.launch({ executablePath, args: ["--no-sandbox"] }) };
  } catch (e) {
    if (process.env.CHROMIUM) throw e;
    return { missing: `${executablePath} does not start: ${(e as Error).message.split("\n")[0]}` };
  }
}

export interface Opened {
  page: Page;
  /** Console messages and errors. */
  said: string[];
  /** Addresses asked for. */
  asked: string[];
}

/** `file`: a path, or an http address. */
export async function opened(
  b: Browser,
  file: string,
  o: { width: number; scheme?: "light" | "dark"; hash?: string },
): Promise<Opened> {
  const page = await b.newPage({ viewport: { width: o.width, height: 900 }, colorScheme: o.scheme ?? "light" });
  const [said, asked]: [string[], string[]] = [[], []];
  page.on("console", (m) => said.push(`${m.type()}: ${m.text()}`));
  page.on("pageerror", (e) => said.push(`error: ${e.message}`));
  page.on("request", (r) => asked.push(r.url()));
  const address = file.startsWith("http:") ? file : pathToFileURL(file).href;
  await page.goto(address + (o.hash ?? ""));
  return { page, said, asked };
}

/** Keeps a picture where SCREENSHOTS names a folder. */
export async function picture(page: Page, name: string): Promise<void> {
  const dir = process.env.SCREENSHOTS;
  if (!dir) return;
  mkdirSync(dir, { recursive: true });
  await page.screenshot({ path: join(dir, `${name}.png`), fullPage: true });
}
