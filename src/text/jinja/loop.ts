// `loop`, cycler and joiner: objects whose attributes change while a template runs.
import { JinjaFault, spend } from "./fault.js";
import {
  type Arguments,
  Computed,
  equal,
  Func,
  itemsOf,
  iterate,
  Iter,
  sizeOf,
  Tuple,
  Undefined,
  type Value,
} from "./values.js";

export class LoopContext extends Computed {
  readonly type = "LoopContext";
  private iterator: Iterator<Value>;
  private index0 = -1;
  private peeked: { value: Value } | "end" | null = null;
  private before: Value | undefined;
  private now: Value | undefined;
  private count: number | null = null;
  private seen: Tuple | null = null;

  constructor(
    private readonly over: Value,
    private readonly depth0: number,
    private readonly recurse: ((over: Value) => string) | null,
  ) {
    super();
    this.iterator = iterate(over);
  }

  get current(): Value {
    return this.now!;
  }

  private peek(): { value: Value } | "end" {
    if (this.peeked === null) {
      const next = this.iterator.next();
      this.peeked = next.done ? "end" : { value: next.value };
    }
    return this.peeked;
  }

  advance(): boolean {
    const next = this.peek();
    if (next === "end") return false;
    this.peeked = null;
    this.index0++;
    this.before = this.now;
    this.now = next.value;
    return true;
  }

  private get length(): number {
    if (this.count !== null) return this.count;
    this.count = sizeOf(this.over);
    if (this.count === null) {
      const ahead = this.peeked !== null && this.peeked !== "end" ? 1 : 0;
      const rest = this.peeked === "end" ? [] : itemsOf(new Iter(this.iterator));
      this.iterator = rest[Symbol.iterator]();
      this.count = this.index0 + 1 + ahead + rest.length;
    }
    return this.count;
  }

  attribute(name: string): Value | undefined {
    switch (name) {
      case "index":
        return this.index0 + 1;
      case "index0":
        return this.index0;
      case "revindex":
        return this.length - this.index0;
      case "revindex0":
        return this.length - this.index0 - 1;
      case "first":
        return this.index0 === 0;
      case "last":
        return this.peek() === "end";
      case "length":
        return this.length;
      case "depth":
        return this.depth0 + 1;
      case "depth0":
        return this.depth0;
      case "previtem":
        return this.index0 === 0 ? new Undefined("there is no previous item") : this.before!;
      case "nextitem": {
        const next = this.peek();
        return next === "end" ? new Undefined("there is no next item") : next.value;
      }
      case "cycle":
        return new Func("cycle", ({ args }) => {
          if (args.length === 0) throw new JinjaFault("no items for cycling given");
          return args[this.index0 % args.length]!;
        });
      case "changed":
        return new Func("changed", ({ args }) => {
          const value = new Tuple(args);
          if (this.seen && equal(this.seen, value)) return false;
          this.seen = value;
          return true;
        });
    }
    return undefined;
  }

  override call({ args }: Arguments): Value {
    if (!this.recurse) throw new JinjaFault("the loop must have the 'recursive' marker to be called");
    if (args.length !== 1) throw new JinjaFault("loop() takes one argument");
    return this.recurse(args[0]!);
  }
}

export class Cycler extends Computed {
  readonly type = "Cycler";
  private at = 0;
  constructor(private readonly items: readonly Value[]) {
    super();
    if (items.length === 0) throw new JinjaFault("at least one item has to be provided");
  }
  attribute(name: string): Value | undefined {
    if (name === "current") return this.items[this.at]!;
    if (name === "reset")
      return new Func("reset", () => {
        this.at = 0;
        return null;
      });
    if (name !== "next") return undefined;
    return new Func("next", () => {
      const item = this.items[this.at]!;
      this.at = (this.at + 1) % this.items.length;
      return item;
    });
  }
}

export class Joiner extends Computed {
  readonly type = "Joiner";
  private used = false;
  constructor(private readonly separator: Value) {
    super();
  }
  attribute(): Value | undefined {
    return undefined;
  }
  override call(): Value {
    spend(1);
    if (this.used) return this.separator;
    this.used = true;
    return "";
  }
}
