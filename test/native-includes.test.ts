// Native files include the headers of the standard library that they use, themselves or through headers of this project:
// what another compiler's headers bring along by chance is missing elsewhere.
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { ordered } from "./helpers/assert.js";
import { root } from "./helpers/child.js";

const test = suite("includes");

const algorithms =
  "sort stable_sort nth_element partial_sort find find_if any_of all_of none_of count count_if fill fill_n copy copy_n " +
  "min max clamp min_element max_element reverse rotate lower_bound upper_bound unique remove_if equal transform";

/** A header and what it is needed for. */
const uses: [string, RegExp][] = [
  ["algorithm", new RegExp(`std::(${algorithms.replaceAll(" ", "|")})\\s*[(<]`)],
  ["array", /std::array\b/],
  ["atomic", /std::atomic/],
  ["bit", /std::(bit_cast|countr_zero|popcount|bit_width)/],
  ["chrono", /std::chrono/],
  ["cmath", /std::(exp|exp2|log|log1p|sqrt|pow|fabs|isfinite|isnan|isinf|ceil|floor|erf|tanh|lround|ldexp|cos|sin)\(/],
  ["condition_variable", /std::condition_variable/],
  ["cstdlib", /std::(getenv|strtod|strtol|strtoull|abort|atof|atoi|malloc|free|aligned_alloc)\(/],
  ["cstring", /std::(memcpy|memset|memcmp|memmove|strlen|strcmp|strerror|strncmp)\(/],
  ["fstream", /std::[io]?fstream/],
  ["functional", /std::function\b/],
  ["limits", /std::numeric_limits/],
  ["map", /std::map\b/],
  ["memory", /std::(unique_ptr|shared_ptr|make_unique|make_shared)/],
  ["mutex", /std::(mutex|lock_guard|unique_lock|call_once)/],
  ["new", /std::(bad_alloc|nothrow)/],
  ["numeric", /std::(accumulate|iota|partial_sum|reduce|gcd|lcm)\(/],
  ["optional", /std::(optional|nullopt)\b/],
  ["set", /std::set\b/],
  ["span", /std::span\b/],
  ["stdexcept", /std::(runtime_error|invalid_argument|logic_error)/],
  ["thread", /std::(thread|this_thread)/],
  ["tuple", /std::(tuple|tie)\b/],
  ["unordered_map", /std::unordered_map\b/],
  ["vector", /std::vector\b/],
];

const places = ["native", "test/native", "test/fuzz", "bench"].map((dir) => join(root, dir));

/** The standard headers that a file includes, directly or through this project's own. */
function headers(file: string, seen = new Set<string>()): Set<string> {
  const found = new Set<string>();
  if (seen.has(file)) return found;
  seen.add(file);
  for (const [, kind, name] of readFileSync(file, "utf8").matchAll(/^#include ([<"])([^>"]+)[>"]/gm)) {
    if (kind === "<") found.add(name!);
    const own = [dirname(file), ...places].map((dir) => join(dir, name!)).find((path) => existsSync(path));
    if (kind !== "<" && own) for (const header of headers(own, seen)) found.add(header);
  }
  return found;
}

for (const place of places)
  test(place.slice(root.length), () => {
    const files = readdirSync(place, { recursive: true, encoding: "utf8" }).filter((name) => /\.(cc|h)$/.test(name));
    const missing = files.flatMap((name) => {
      const code = readFileSync(join(place, name), "utf8").replace(/\/\/.*/g, "");
      const included = headers(join(place, name));
      return uses
        .filter(([header, use]) => use.test(code) && !included.has(header))
        .map(([header]) => `${name}: <${header}>`);
    });
    ordered(files.length, ">", 0);
    assert.equal(missing, []);
  });

test.run();
