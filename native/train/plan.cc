#include "train/plan.h"

#include <algorithm>
#include <ctime>
#include <deque>

#include "kernels/devices.h"
#include "models/loader.h"
#include "models/score.h"
#include "train/pair_step.h"
#include "train/shards.h"

namespace isr {
namespace {

bool holds(const std::vector<Model::Part>& parts, Model::Part p) { return std::find(parts.begin(), parts.end(), p) != parts.end(); }

constexpr Model::Part kForward[] = {Model::Part::Vision, Model::Part::Projector, Model::Part::Decoder};

uint64_t value_bytes(const Param& p) { return static_cast<uint64_t>(p.size()) * (p.vector() ? sizeof(float) : size_of(p.dtype)); }

// ---- weights, as Loader::allocate keeps them
void count_weights(Model& m, PlanReport& r) {
  const auto panels = [&](const Weight& w) { return m.backend->matrix_bytes(w.shape); };
  for (const Weight* w : m.weights()) r.vision.panels += panels(*w);
  for (const Layer& l : m.layers) r.decoder.panels += panels(l.qkv) + panels(l.out) + panels(l.gate_up) + panels(l.down);
  r.decoder.panels += panels(m.head);
  r.vision.panels -= r.decoder.panels;
  for (Model::Part part : kForward)
    for (const std::vector<Param*>& group : m.groups(part))
      for (const Param* p : group) {
        PlanReport::Part& to = part == Model::Part::Decoder ? r.decoder : r.vision;
        to.row_major += static_cast<uint64_t>(p->size()) * size_of(p->dtype);
        if (!p->weight || p->embedding || p->vector()) to.rows += value_bytes(*p);
      }
}

// ---- what a trainer adds, as Optimizer's constructor does; params get their group, and rows where training reads them
void count_group(const Model& m, const std::vector<Param*>& params, Group& g, PlanReport& r) {
  for (Param* p : params) {
    p->group = &g;
    p->offset = static_cast<size_t>(g.size);
    g.size += (p->size() + 63) / 64 * 64;
    r.trained += p->size();
  }
  g.params = params;
  g.written.assign(params.size(), false);
  g.grad = Buffer(m.backend->device(), static_cast<size_t>(g.size) * sizeof(float));
  r.trained_elements += static_cast<uint64_t>(g.size);
  r.largest_group = std::max(r.largest_group, g.size);
  if (!takes_turns(m, params)) return;
  r.block_elements += static_cast<uint64_t>(g.size);
  r.largest_block = std::max(r.largest_block, g.size);
}

void count_training(Model& m, const std::vector<Model::Part>& parts, std::deque<Group>& groups, PlanReport& r) {
  bool before = false;   // a trained part: gradients flow through what follows it
  void* const somewhere = m.token_embedding->value;
  for (Model::Part part : kForward) {
    const bool adapts = part == Model::Part::Decoder && m.adapter, trains = holds(parts, part) && !adapts;
    PlanReport::Part& to = part == Model::Part::Decoder ? r.decoder : r.vision;
    for (const std::vector<Param*>& params : m.groups(part)) {
      for (Param* p : params) {
        if (p->value) continue;   // else its panels alone hold it
        if (trains || adapts || before) p->value = somewhere;
        if (trains ? p->dtype != DType::F32 : adapts || before) to.rows += value_bytes(*p);   // a float32 master is the value
      }
      if (trains) count_group(m, params, groups.emplace_back(), r);
    }
    if (adapts)
      for (const std::vector<Param*>& params : m.adapter->groups()) count_group(m, params, groups.emplace_back(), r);
    before = before || trains;
  }
  for (Layer& l : m.layers) l.group = group_of(l);
  m.shared_group = m.final_norm->group;
}

// Of a checkpoint's weights, with the layers of towers that are not computed.
uint64_t file_bytes(const Config& file, ModelConfig config) {
  if (config.vision)
    for (std::optional<TowerConfig>* t : {&config.vision->image, &config.vision->video})
      if (*t) (*t)->run = (*t)->layers;
  uint64_t elements = 0;
  for (const TensorSpec& s : expected_tensors(*file.family, default_names(*file.family), config)) {
    uint64_t n = 1;
    for (int64_t d : s.shape) n *= static_cast<uint64_t>(d);
    elements += n;
  }
  return elements * size_of(stored_dtype(file));
}

// ---- one step's items
int64_t frames_of(const VisionConfig& v) { return v.video ? v.frames : 1; }

void guess_lengths(const Model& m, const PlanRequest& q, PlanReport& r) {
  const std::optional<VisionConfig>& v = r.config.vision;
  const bool seen = v && (v->video || v->image);
  if (seen) r.media_tokens = v->rows(!v->video, m.declaration().grid(v->tower(!v->video), frames_of(*v)));
  const int64_t answers = q.supervised ? 1 : 2, context = r.config.decoder.context;
  r.tokens = q.tokens > 0 ? q.tokens : std::min(context, r.media_tokens + (r.media_tokens > 0 ? 256 : 768));
  if (r.tokens <= r.media_tokens + answers)
    throw Error("INVALID_ARGUMENT", concat("tokensPerItem: expected more than the ", r.media_tokens, " rows of a video and a token an answer, got ", r.tokens),
                "count the prompt once, its video's rows, and the answers");
  const int64_t room = r.tokens - r.media_tokens - 1;
  const int64_t guess = r.tokens / (q.supervised ? 2 : 6);
  r.answer_tokens = q.answer_tokens > 0 ? q.answer_tokens : std::clamp<int64_t>(guess, 1, std::max<int64_t>(1, room / answers));
  if (r.answer_tokens * answers > room)
    throw Error("INVALID_ARGUMENT", concat("answerTokens: expected at most ", std::max<int64_t>(0, room / answers), " in an item of ", r.tokens, " tokens, got ", r.answer_tokens));
  const int64_t prompt = r.tokens - answers * r.answer_tokens;
  if (prompt + r.answer_tokens > context)
    throw Error("CONTEXT_OVERFLOW", concat("tokensPerItem: a sequence of ", prompt + r.answer_tokens, " tokens, the model's context is ", context), "plan for shorter items");
}

SequenceInput sequence_of(const Model& m, const PlanReport& r, int32_t medium, int64_t answers, int32_t item, int32_t side) {
  SequenceInput s;
  const int64_t prompt = r.tokens - answers * r.answer_tokens;
  const auto word = [&](int64_t n) { return static_cast<int32_t>(n % m.config.vocab); };
  s.ids.push_back(word(item));   // items share nothing
  for (int64_t i = 0; i < r.media_tokens; ++i) s.ids.push_back(medium + static_cast<int32_t>(i));
  while (static_cast<int64_t>(s.ids.size()) < prompt) s.ids.push_back(word(1));
  std::vector<uint8_t> scored(s.ids.size(), 0);
  for (int64_t i = 0; i < r.answer_tokens; ++i) s.ids.push_back(word(2 + side));
  scored.resize(s.ids.size(), 1);
  s.targets = targets_of(s.ids, scored);
  return s;
}

std::vector<SequenceInput> micro_batch(Model& m, const PlanRequest& q, PlanReport& r) {
  const int64_t answers = q.supervised ? 1 : 2;
  r.micro_batch_items = std::clamp<int64_t>(q.trainer.micro_batch_tokens / r.tokens, 1, std::max<int64_t>(1, q.items));
  std::vector<SequenceInput> all;
  for (int64_t i = 0; i < r.micro_batch_items; ++i) {
    int32_t first = 0;
    if (r.media_tokens > 0) {
      const bool image = !r.config.vision->video;
      const TowerConfig& t = m.vision->tower(image)->config;
      const int64_t frames = frames_of(*r.config.vision);
      const Grid grid = m.declaration().grid(t, frames);
      std::vector<float> pixels(static_cast<size_t>(t.pixel_values(grid)));
      first = (t.grids ? m.media.add_patches(m, image, grid, 0, std::move(pixels)) : m.media.add_pixels(m, image, frames, std::move(pixels))).first_id;
    }
    for (int32_t side = 0; side < answers; ++side) all.push_back(sequence_of(m, r, first, answers, static_cast<int32_t>(i), side));
  }
  return all;
}

// As Trainer::Impl::micro_batch, after scoring without a tape.
void go_through(Model& m, const PlanRequest& q, const std::vector<SequenceInput>& sequences, PlanReport& r) {
  if (!q.supervised) sequence_log_probs(m, sequences, q.trainer.share_prefix, INT64_MAX, nullptr);
  const Batch batch = make_batch(sequences, q.trainer.share_prefix, m.positioner());
  r.checkpointing = checkpoints(q.trainer, m.config, m.dtype, batch.tokens(), q.memory > 0 ? q.memory : m.backend->device().memory());
  ArenaScope scope(m.arena());
  Tape tape(m.arena(), true);
  Ctx c{*m.backend, tape, nullptr, {}};
  const ResidentBatch there = make_resident(c, m, batch, m.media.rows_of(c, m, batch.ids, r.checkpointing));
  const Tensor hidden = hidden_states(c, m, there, r.checkpointing);
  const TokenLogp head = token_logp(c, gather_rows(c, hidden, there.scored), m.head, there.targets);
  if (!q.supervised) {
    const Buffer figures(m.backend->device(), sequences.size() / 2 * kPairFigures * sizeof(double));   // the trainer's own, between steps
    pair_answer(c, batch, head, std::vector<float>(batch.scored.size()), figures.data<double>(), {});
  }
  tape.backward();
  r.activations = m.arena().peak();
  r.scratch = m.backend->workspace().peak();
}

void count_media(const Model& m, const PlanRequest& q, PlanReport& r) {
  if (r.media_tokens == 0) return;
  const VisionConfig& v = *r.config.vision;
  const TowerConfig& t = v.video ? *v.video : *v.image;
  const auto element = static_cast<int64_t>(size_of(m.dtype));
  r.tower_bytes = r.media_tokens * t.features() * element;
  const bool tower = q.trainer.train_vision, projector = q.trainer.train_projector;   // trained: its output is an activation
  const int64_t pixels = q.load.device == "cpu" ? 2 * t.pixel_values(m.declaration().grid(t, frames_of(v))) * 4 : 0;   // a card holds none
  r.media = static_cast<uint64_t>(pixels + (tower ? 0 : r.tower_bytes) + (tower || projector ? 0 : r.media_tokens * m.config.width * (1 + v.levels()) * element));
}

// ---- FLOPs: two per weight and token forward, twice that backward where gradients flow; causal attention as half
void count_flops(Model& m, const PlanRequest& q, PlanReport& r) {
  const DecoderConfig& c = m.config;
  const auto d = [](int64_t n) { return static_cast<double>(n); };
  const double block = d(c.width * (2 * c.heads + 2 * c.kv_heads) * c.head_size + 3 * c.width * c.mlp_width);
  const int64_t answers = q.supervised ? 1 : 2, prompt = r.tokens - answers * r.answer_tokens;
  const double visible = 0.5 * d(prompt) * d(prompt) + d(answers) * d(r.answer_tokens) * (d(prompt) + 0.5 * d(r.answer_tokens));
  const double blocks = d(c.layers) * (2 * block * d(r.tokens) + 4 * d(c.heads * c.head_size) * visible);
  const double head = 2 * d(answers * r.answer_tokens) * d(c.width) * d(c.vocab);
  const double weights = q.trainer.train_decoder && !q.trainer.lora ? 2 : 1;   // backward of a frozen decoder is dX alone
  const double again = r.checkpointing ? 1 : 0;
  r.flops_token = 2 * (d(c.layers) * block + d(c.width) * d(c.vocab));
  double media = 0;
  if (r.media_tokens > 0) {
    const VisionConfig& v = *r.config.vision;
    const TowerConfig& t = v.video ? *v.video : *v.image;
    const Grid grid = m.declaration().grid(t, frames_of(v));
    const double frame = d(t.tokens(grid)), rows = d(grid.t) * frame, window = t.window > 0 ? std::min(frame, d(t.window * t.window * t.merge * t.merge)) : frame;
    const double layer = d(4 * t.width * t.width * (t.frames > 0 ? 2 : 1) + (t.gated ? 3 : 2) * t.width * t.mlp_width);
    media = 2 * d(t.run) * layer * rows + 4 * d(t.width) * rows * (d(static_cast<int64_t>(t.whole.size())) * frame + d(t.run - static_cast<int64_t>(t.whole.size())) * window);
    media += 2 * d(r.media_tokens) * (t.grids ? d(1 + v.levels()) * d(t.square()) * d(t.square() + c.width) : d(c.width) * d(t.square() + (v.projector_layers - 1) * c.width));
  }
  r.flops_media = media;
  r.flops_score = q.supervised ? 0 : blocks + head;
  r.flops_item = (blocks + head) * (1 + weights) + blocks * again + head;   // the head's logits are computed again in backward
  if (q.trainer.train_vision) r.flops_item += media * (3 + again);
}

// ---- this machine's rates, by the engine's own loops on the job's own shapes. Measured by the CPU time that the threads took,
// not by the clock: other work on the machine holds a measurement up, and shall not make it worse.
double cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// `amount` of one call of `work`; calls are repeated until a measurement takes `kRound` seconds of the threads together.
PlanReport::Rate rates_of(double amount, int threads, const std::function<void()>& work) {
  constexpr int kRounds = 7;
  constexpr double kRound = 0.008;
  PlanReport::Rate r;
  for (int i = -1; i < kRounds; ++i) {   // the first warms caches and clocks
    const double start = cpu_seconds();
    double took = 0;
    int64_t calls = 0;
    do {
      work();
      ++calls;
      took = cpu_seconds() - start;
    } while (took < kRound * threads && calls < 4096);
    const double rate = amount * static_cast<double>(calls) * threads / std::max(took, 1e-9);
    if (i < 0) continue;
    r.low = i == 0 ? rate : std::min(r.low, rate);
    r.high = std::max(r.high, rate);
  }
  return r;
}

void measure_rates(Model& m, PlanReport& r) {
  constexpr int64_t kMostRows = 256, kMostWeights = int64_t{4} << 20, kMaster = int64_t{1} << 20;
  const std::unique_ptr<Backend> be = make_cpu_backend(chosen_isa(), m.threads);
  const int64_t rows = std::min(kMostRows, std::max<int64_t>(1, r.tokens * r.micro_batch_items)), k = m.config.width;
  const int64_t n = std::max<int64_t>(64, std::min(m.config.mlp_width, kMostWeights / k) / 64 * 64);
  const MatrixShape shape{n, k, m.dtype, false};
  const Buffer memory(be->matrix_bytes(shape)), x(rows * k * size_of(m.dtype)), y(rows * n * size_of(m.dtype));
  const std::unique_ptr<Matrix> w = be->matrix(shape, memory.data());
  r.flops_per_second = rates_of(2.0 * static_cast<double>(rows) * static_cast<double>(n) * static_cast<double>(k), m.threads, [&] {
    be->gemm_nt(view(y.data(), m.dtype, rows, n), view(x.data(), m.dtype, rows, k), *w, {});
  });
  const Buffer arrays(4 * kMaster * sizeof(float));
  float* const a = arrays.data<float>();
  AdamWItem item;
  item.master = a, item.m = a + kMaster, item.v = a + 2 * kMaster, item.grad = a + 3 * kMaster;
  item.rows = kMaster / 1024, item.cols = 1024;
  r.bytes_per_second = rates_of(7.0 * sizeof(float) * kMaster, m.threads, [&] { be->adamw({&item, 1}, AdamW{}); });   // four arrays read, three written
}

}  // namespace

PlanReport plan_training(const std::string& dir, const PlanRequest& q) {
  check_options(q.trainer);
  const std::unique_ptr<Model> model = Model::outline(dir, q.load);
  Model& m = *model;
  PlanReport r;
  r.config.decoder = m.config;
  if (m.vision) r.config.vision = m.vision->config;
  r.family = m.family;
  r.dtype = m.dtype;
  r.threads = m.threads;
  const DeviceKind* const kind = find_kind(q.load.device);
  r.device_measured = kind && kind->outline;
  r.parameters = m.parameters;
  r.checkpoint_bytes = file_bytes(read_config(dir, q.load.families ? *q.load.families : all_families()), r.config);
  guess_lengths(m, q, r);
  count_weights(m, r);
  std::deque<Group> groups;
  if (q.trainer.lora) {
    m.adapter = Adapter::make(m, *q.trainer.lora);
    r.decoder.rows += m.adapter->bytes();
    r.decoder.row_major += static_cast<uint64_t>(m.adapter->parameters()) * size_of(m.dtype);
  }
  count_training(m, parts_of(m, q.trainer), groups, r);
  r.kv_page = static_cast<uint64_t>(m.config.layers) * m.backend->kv_page_bytes(attention_shape(m.config), m.dtype);
  go_through(m, q, micro_batch(m, q, r), r);
  count_media(m, q, r);
  count_flops(m, q, r);
  if (q.measure_rates) measure_rates(m, r);
  return r;
}

}  // namespace isr
