// npm run docs: the site in build/site, made by typedoc from the README, the pages of docs/ and the docstrings of what the
// package exports. Any warning of typedoc ends it with an error (an export or member without a docstring, a link to a missing file, an
// unknown anchor), and so does a link of the finished pages that leads nowhere.
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import {
  Application,
  Converter,
  KindRouter,
  MinimalSourceFile,
  ReflectionKind,
  TSConfigReader,
  TypeDocReader,
} from "typedoc";
import { root } from "./native.mjs";

/** The pages by the group of the sidebar that they stand in, in reading order. */
const groups = {
  "Getting started": ["docs/laptop", "docs/research", "docs/service"],
  Guides: [
    "docs/method",
    "docs/video",
    "docs/training",
    "docs/ranks",
    "docs/judging",
    "docs/plan",
    "docs/gpu",
    "docs/live",
    "docs/report",
  ],
  Reference: ["docs/configuration", "docs/data", "docs/run-folder", "docs/checkpoints", "docs/errors"],
  Evidence: ["docs/world", "docs/determinism", "docs/performance", "docs/testing"],
  Contributing: ["docs/follow-one-sample", "CONTRIBUTING", "native/README", "CHANGELOG"],
  Decisions: pagesIn("docs/decisions"),
};

/** The pages of a folder, its README first. */
function pagesIn(folder) {
  const names = readdirSync(join(root, folder)).flatMap((name) => /^(.*)\.md$/.exec(name)?.[1] ?? []);
  return names.sort((a, b) => Number(b === "README") - Number(a === "README")).map((name) => `${folder}/${name}`);
}

const { homepage, exports } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const repository = homepage.replace(/#.*/, "").replace("https://github.com/", "");

/** The README's addresses of this repository's files, as paths: on GitHub and npm they are absolute, the site has the pages. */
const localLinks = (text) =>
  text
    .replaceAll(`https://raw.githubusercontent.com/${repository}/main/`, "./")
    .replaceAll(`https://github.com/${repository}/blob/main/`, "./");

/** What a module is imported as: the entry of package.json's exports whose types are made from it. */
function importName(file) {
  const entry = relative(join(root, "src"), file).replace(/(\/index)?\.ts$/, "");
  const found = Object.entries(exports).find(([, target]) => target.import?.types === `./dist/${entry}.d.ts`);
  if (!found)
    throw new Error(`${file}: expected an entry of package.json's exports with the types ./dist/${entry}.d.ts`);
  return join("isr-dpo", found[0]);
}

/** A page of the repository lies where its file does; the API's pages by their kind. */
class Router extends KindRouter {
  getIdealBaseName(reflection) {
    return reflection.isDocument() ? pathOf(reflection) : super.getIdealBaseName(reflection);
  }
}
const pathOf = (page) => relative(root, page.project.files.getReflectionPath(page)).replace(/\.md$/, "");

async function build() {
  const pages = Object.values(groups).flat();
  const missing = pagesIn("docs").filter((page) => !pages.includes(page));
  if (missing.length > 0) throw new Error(`in no group of scripts/site.mjs: ${missing.join(", ")}`);
  const app = await Application.bootstrap(
    {
      options: join(root, "typedoc.json"),
      projectDocuments: pages.map((page) => join(root, `${page}.md`)),
      router: "files",
      groupOrder: [...Object.keys(groups), "*"],
    },
    [new TypeDocReader(), new TSConfigReader()],
  );
  app.renderer.defineRouter("files", Router);
  const groupOf = new Map(Object.entries(groups).flatMap(([group, of]) => of.map((page) => [page, group])));
  app.converter.on(Converter.EVENT_CREATE_DOCUMENT, (_, page) => {
    page.name = /^# (.+)/.exec(page.content[0].text)[1];
    page.frontmatter.group = groupOf.get(pathOf(page));
  });
  const fromReadme = ({ project }) => {
    const readme = join(root, "README.md");
    const text = localLinks(readFileSync(readme, "utf8"));
    project.readme = app.converter.parseRawComment(new MinimalSourceFile(text, readme), project.files).content;
    for (const module of project.getReflectionsByKind(ReflectionKind.Module))
      module.name = importName(project.files.getReflectionPath(module) ?? module.sources?.[0]?.fullFileName);
  };
  app.converter.on(Converter.EVENT_RESOLVE_BEGIN, fromReadme, -1000);
  const project = await app.convert();
  if (!project) return false;
  app.validate(project);
  if (app.logger.hasErrors() || app.logger.hasWarnings()) return false;
  await app.generateOutputs(project);
  return !app.logger.hasErrors() && !app.logger.hasWarnings();
}

const attribute = (name) => new RegExp(`<[^>]+\\s${name}="([^"]*)"`, "g");
const decoded = (url) => decodeURIComponent(url.replaceAll("&amp;", "&"));

/** Links of the finished pages, and their anchors, that lead nowhere. */
function deadLinks(site) {
  const htmlFiles = readdirSync(site, { recursive: true }).filter((name) => name.endsWith(".html"));
  const text = new Map(htmlFiles.map((name) => [join(site, name), readFileSync(join(site, name), "utf8")]));
  const values = (html, name) => [...html.matchAll(attribute(name))].map(([, value]) => decoded(value));
  const anchors = new Map([...text].map(([file, html]) => [file, new Set(values(html, "id"))]));
  const dead = [];
  let count = 0;
  for (const [file, html] of text)
    for (const url of [...values(html, "href"), ...values(html, "src")]) {
      if (/^[a-z]+:/.test(url)) continue;
      count++;
      const [path, anchor] = url.split("#");
      const target = path === "" ? file : resolve(dirname(file), path);
      const found = existsSync(target) && statSync(target).isFile();
      if (!found || (anchor && anchors.has(target) && !anchors.get(target).has(anchor)))
        dead.push(`${relative(site, file)}: ${url}`);
    }
  return { dead, count, pages: text.size };
}

if (await build()) {
  const { dead, count, pages } = deadLinks(join(root, "build/site"));
  for (const link of new Set(dead)) console.error(`dead link: ${link}`);
  console.log(`${pages} pages, ${count} links within the site, ${dead.length} dead`);
  process.exitCode = dead.length > 0 ? 1 : 0;
} else process.exitCode = 1;
