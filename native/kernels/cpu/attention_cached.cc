// The KV cache's pages and attention over them. A page holds 64 tokens of all kv heads, head by head, each in the layout of
// attention_pack.h, so a row meets the same words here and in batched attention and its result has the same bits.
// Opening a page (slot 0) clears its values: masked keys then multiply zeros, or old finite values, by a probability of zero.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/attention.h"

namespace isr::cpu::ISR_NS {
namespace {

template <class P>
void append_head(const KvStore& kv, int64_t layer, const Tensor& k, const Tensor& v, std::span<const KvRow> rows, const AttentionShape& s, int64_t head) {
  using In = typename P::In;
  constexpr int per = P::kPerWord;
  const int dp = head_padded(s), d = static_cast<int>(s.head_size);
  const int64_t part = page_part_words<P>(dp) * per;
  for (size_t i = 0; i < rows.size(); ++i) {
    const KvRow& at = rows[i];
    In* keys = reinterpret_cast<In*>(kv.page(layer, at.page)) + head * 2 * part;
    In* values = keys + part;
    if (at.slot == 0) std::memset(values, 0, static_cast<size_t>(part) * sizeof(In));
    const In* key = k.as<In>() + static_cast<int64_t>(i) * k.stride + head * d;
    const In* value = v.as<In>() + static_cast<int64_t>(i) * v.stride + head * d;
    for (int c = 0; c < dp; ++c) keys[(c / per * kKeyBlock + at.slot) * per + c % per] = c < d ? key[c] : In{};
    In* line = values + at.slot / per * dp * per + at.slot % per;
    for (int c = 0; c < d; ++c) line[c * per] = value[c];
  }
}

// New rows of one branch that lie in one key block.
struct Part {
  int32_t row, rows, logical, first_page;
  int32_t blocks() const { return logical / kKeyBlock + 1; }
};
struct Item { int32_t first_part, parts; };  // parts that one tile can hold and that start on the same page

struct CachedCall {
  Tensor out, q;
  const KvStore& kv;
  int64_t layer;
  const CachedPlan& plan;
  const AttentionShape& s;
  const Part* parts;
};

// One item, heads [head, head + heads) of the queries. Rows of parts that stand on the same page meet it together.
template <class P>
void attend_item(const CachedCall& f, RowTile<P>& t, const Item& item, int64_t kv_head, int64_t head, int heads) {
  using In = typename P::In;
  const Part* parts = f.parts + item.first_part;
  const int d = static_cast<int>(f.s.head_size);
  int row = 0, blocks = 0;
  for (int i = 0; i < item.parts; ++i) {
    const Part& p = parts[i];
    blocks = p.blocks() > blocks ? p.blocks() : blocks;
    for (int h = 0; h < heads; ++h, row += p.rows) {
      stage_rows(t.q + row * t.dp, f.q.as<In>() + p.row * f.q.stride + (head + h) * d, f.q.stride, p.rows, d, t.dp);
      for (int r = 0; r < p.rows; ++r) t.visible[row + r] = p.logical + r + 1;
    }
  }
  t.begin(row);
  for (int j = 0; j < blocks; ++j) {
    for (int i = 0, at = 0; i < item.parts;) {
      if (parts[i].blocks() <= j) {
        at += parts[i++].rows * heads;
        continue;
      }
      const int32_t page = f.plan.page_list[static_cast<size_t>(parts[i].first_page + j)];
      int n = 0;
      for (; i < item.parts && parts[i].blocks() > j && f.plan.page_list[static_cast<size_t>(parts[i].first_page + j)] == page; ++i)
        n += parts[i].rows * heads;
      const uint32_t* words = reinterpret_cast<const uint32_t*>(f.kv.page(f.layer, page)) + kv_head * 2 * page_part_words<P>(t.dp);
      t.attend(at, n, words, j * kKeyBlock);
      at += n;
    }
  }
  row = 0;
  for (int i = 0; i < item.parts; ++i)
    for (int h = 0; h < heads; ++h)
      for (int r = 0; r < parts[i].rows; ++r, ++row)
        t.finish(f.out.as<In>() + (parts[i].row + r) * f.out.stride + (head + h) * d, row, d);
}

// Splits sequences into parts and groups small neighbours that share their first page; returns the number of items.
int64_t make_items(Part* parts, Item* items, const CachedPlan& plan, int64_t group) {
  int32_t n = 0, count = 0;
  int64_t rows = 0;  // tile rows of the open item
  for (const CachedSequence& seq : plan.sequences)
    for (int32_t done = 0; done < seq.rows;) {
      const int32_t logical = seq.logical + done, room = kKeyBlock - logical % kKeyBlock;
      const int32_t take = room < seq.rows - done ? room : seq.rows - done;
      parts[n] = {seq.row + done, take, logical, seq.first_page};
      const bool shared = count > 0 && plan.page_list[static_cast<size_t>(parts[n - 1].first_page)] == plan.page_list[static_cast<size_t>(seq.first_page)];
      if (shared && rows + take * group <= kTileRows) {
        ++items[count - 1].parts;
        rows += take * group;
      } else {
        items[count++] = {n, 1};
        rows = take * group;
      }
      ++n;
      done += take;
    }
  return count;
}

template <class P>
void cached(CachedCall f, const Crew& threads, Arena& scratch) {
  int64_t most = 0, work = 0;
  for (const CachedSequence& seq : f.plan.sequences) {
    ISR_ASSERT(seq.rows > 0 && int64_t{seq.pages} * kKeyBlock >= seq.logical + seq.rows, seq.pages, " pages for ", seq.logical + seq.rows, " keys");
    most += seq.rows / kKeyBlock + 2;
    work += int64_t{seq.rows} * (seq.logical + seq.rows);
  }
  const int64_t group = f.s.heads / f.s.kv_heads, tile_bytes = RowTile<P>::bytes(head_padded(f.s));
  ArenaScope scope(scratch);
  char* memory = scratch.allocate_n<char>(threads * tile_bytes);
  Part* parts = scratch.allocate_n<Part>(most);
  Item* items = scratch.allocate_n<Item>(most);
  const int64_t count = make_items(parts, items, f.plan, group), tasks = count * f.s.kv_heads;
  f.parts = parts;
  // A page's bytes cost about as much as 16 rows' work on it.
  const int64_t flops = count == 0 ? 0 : 4 * work * group * f.s.head_size / count + int64_t{64} * f.plan.page_list.size() * kKeyBlock * f.s.head_size / count;
  parallel(threads, tasks, work_grain(threads, tasks, flops), [&](int64_t begin, int64_t end, int worker) {
    RowTile<P> t(memory + worker * tile_bytes, head_padded(f.s), f.s.scale);
    for (int64_t i = begin; i < end; ++i) {
      const Item& item = items[i % count];
      const int64_t kv_head = i / count;
      const int64_t together = item.parts > 1 ? group : heads_together(parts[item.first_part].rows, group);
      for (int64_t g = 0; g < group; g += together)
        attend_item<P>(f, t, item, kv_head, kv_head * group + g, static_cast<int>(together < group - g ? together : group - g));
    }
  });
}

}  // namespace

size_t CpuBackend::kv_page_bytes(const AttentionShape& s, DType dtype) const {
  check_shape(s);
  return static_cast<size_t>(s.kv_heads * 2 * kKeyBlock * head_padded(s)) * size_of(dtype);
}

void CpuBackend::kv_append(const KvStore& kv, int64_t layer, Tensor k, Tensor v, const Prepared& plan, const AttentionShape& s) {
  const std::span<const KvRow> rows = cached_plan_of(plan).rows;
  check_shape(s);
  ISR_ASSERT(static_cast<int64_t>(rows.size()) == k.rows && k.rows == v.rows && k.dtype == v.dtype, rows.size(), " places, k ", k.rows, ", v ", v.rows);
  ISR_ASSERT(kv.page_bytes >= static_cast<int64_t>(kv_page_bytes(s, k.dtype)), "pages of ", kv.page_bytes, " bytes");
  const int64_t flops = static_cast<int64_t>(rows.size()) * s.head_size * 100;
  parallel(threads, s.kv_heads, work_grain(threads, s.kv_heads, flops), [&](int64_t begin, int64_t end, int) {
    for (int64_t head = begin; head < end; ++head) {
      if (k.dtype == DType::BF16) append_head<Bfloat16>(kv, layer, k, v, rows, s, head);
      else append_head<Float32>(kv, layer, k, v, rows, s, head);
    }
  });
}

void CpuBackend::attention_cached(Tensor out, Tensor q, const KvStore& kv, int64_t layer, const Prepared& prepared, const AttentionShape& s) {
  const CachedPlan& plan = cached_plan_of(prepared);
  check_shape(s);
  ISR_ASSERT(out.dtype == q.dtype && out.rows == q.rows && q.cols == s.heads * s.head_size, "q ", q.rows, " x ", q.cols, ", out ", out.rows);
  ISR_ASSERT(kv.page_bytes >= static_cast<int64_t>(kv_page_bytes(s, q.dtype)), "pages of ", kv.page_bytes, " bytes");
  if (q.dtype == DType::BF16) cached<Bfloat16>({out, q, kv, layer, plan, s, nullptr}, threads, scratch);
  else cached<Float32>({out, q, kv, layer, plan, s, nullptr}, threads, scratch);
}

}  // namespace isr::cpu::ISR_NS
