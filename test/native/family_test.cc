// Families by their parts. A family that exists only here, with names and a stacking of its own: what is declared once must
// be loaded, computed with, trained, saved and planned for. And what the declarations promise about order.
#include <algorithm>

#include "check.h"
#include "infer/generator.h"
#include "models/score.h"
#include "toy_family.h"
#include "train/trainer.h"

namespace isr::test {
namespace {

// Every second position stays empty.
SequencePositions doubled(std::span<const int32_t> ids, std::span<const PlacedMedium>, const VisionConfig*) {
  SequencePositions p;
  for (size_t t = 0; t < ids.size(); ++t) p.values.push_back(static_cast<int32_t>(2 * t));
  p.shift = static_cast<int32_t>(ids.size());
  return p;
}

// Behind each of these a gap; nothing drawn is one.
constexpr int32_t kPause = 3, kGap = 40;
SequencePositions paused(std::span<const int32_t> ids, std::span<const PlacedMedium>, const VisionConfig*) {
  SequencePositions p;
  for (size_t t = 0; t < ids.size(); ++t) {
    p.values.push_back(static_cast<int32_t>(t) + p.shift);
    if (ids[t] == kPause) p.shift += kGap;
  }
  return p;
}

// Rotary pairs over three axes, in both layouts. Their positions: an axis counts twice as fast as the one before it.
const std::vector<int32_t> kSections{0, 0, 1, 2}, kInterleaved{0, 1, 2, 0};
ModelConfig read_sections(const Json& json, const std::string& path) {
  ModelConfig c = read_toy(json, path);
  c.decoder.rope.axis = rope_sections(std::vector<int64_t>{2, 1, 1});
  return c;
}
ModelConfig read_interleaved(const Json& json, const std::string& path) {
  ModelConfig c = read_toy(json, path);
  c.decoder.rope.axis = rope_interleaved(std::vector<int64_t>{2, 1, 1});
  return c;
}
SequencePositions faster(std::span<const int32_t> ids, std::span<const PlacedMedium>, const VisionConfig*) {
  SequencePositions p;
  p.axes = 3;
  for (int axis = 0; axis < 3; ++axis)
    for (size_t t = 0; t < ids.size(); ++t) p.values.push_back(static_cast<int32_t>(t) << axis);
  return p;
}
// Words stand at one place of all axes, as text does; a pause at three, and behind it a gap.
SequencePositions spread(std::span<const int32_t> ids, std::span<const PlacedMedium>, const VisionConfig*) {
  SequencePositions p;
  p.axes = 3;
  for (int32_t axis = 0; axis < 3; ++axis) {
    p.shift = 0;
    for (size_t t = 0; t < ids.size(); ++t) {
      p.values.push_back(static_cast<int32_t>(t) + p.shift + (ids[t] == kPause ? 9 * axis : 0));
      if (ids[t] == kPause) p.shift += kGap;
    }
  }
  return p;
}

const Families& with_toy() {
  static const Families all = [] {
    Families rows = all_families();
    const Spellings none, decoder{{"toy.", "older_toy."}, "words.table"}, head{{"toy_head."}, "weight"};
    const auto row = [&](const char* name, decltype(Family::read) read, decltype(Family::positions) positions) {
      rows.push_back({.name = name, .model_type = name, .architecture = "ToyForCausalLM", .read = read, .parts = toy_parts, .forward = {.decoder = decoder_forward},
                      .positions = positions, .roots = {decoder, head, none, none, none}, .typical = "blocks.0.down.weight"});
    };
    row("toy", read_toy, nullptr);
    row("doubled", read_toy, doubled);
    row("paused", read_toy, paused);
    row("sections", read_sections, faster);
    row("interleaved", read_interleaved, faster);
    row("spread", read_interleaved, spread);
    return rows;
  }();
  return all;
}

void write_toy(const std::string& dir, const std::string& root = "toy.", const std::string& more = "", const std::string& type = "toy") {
  write_declared(dir, toy_config(type), with_toy(), root, more);
}

// A Llama of the same shape, made of the toy's values.
void write_twin(const std::string& dir, Model& toy, const std::string& rope = "") {
  ModelSpec spec;
  spec.width = kWide, spec.layers = kDeep, spec.heads = spec.kv_heads = 4, spec.mlp_width = kInner, spec.vocab = kWords, spec.context = 128, spec.tied = true;
  make_folders(dir);
  std::string config = config_text(spec);
  config.insert(config.size() - 1, rope);
  write_file_atomic(dir + "/config.json", config);
  std::vector<NewTensor> tensors;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, const std::string& from, int64_t skip) {
    const std::vector<float> all = toy.parameter("toy." + from);
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    tensors.push_back(tensor(name, std::move(shape), {all.begin() + skip, all.begin() + skip + n}));
  };
  add("model.embed_tokens.weight", {kWords, kWide}, "words.table", 0);
  add("model.norm.weight", {kWide}, "last.norm", 0);
  for (int64_t i = 0; i < kDeep; ++i) {
    const std::string to = concat("model.layers.", i, "."), from = concat("blocks.", i, ".");
    const char* const rows[] = {"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"};
    for (int64_t part = 0; part < 3; ++part) add(to + rows[part], {kWide, kWide}, from + "qkv.weight", part * kWide * kWide);
    add(to + "self_attn.o_proj.weight", {kWide, kWide}, from + "out.weight", 0);
    add(to + "input_layernorm.weight", {kWide}, from + "before", 0);
    add(to + "post_attention_layernorm.weight", {kWide}, from + "between", 0);
    add(to + "mlp.gate_proj.weight", {kInner, kWide}, from + "gate.weight", 0);
    add(to + "mlp.up_proj.weight", {kInner, kWide}, from + "up.weight", 0);
    add(to + "mlp.down_proj.weight", {kWide, kInner}, from + "down.weight", 0);
  }
  write_safetensors(dir + "/model.safetensors", tensors, {{"format", "pt"}});
}

LoadOptions toy_options() {
  LoadOptions o;
  o.families = &with_toy();
  o.threads = 2;
  return o;
}

std::vector<float> logits_of(Model& m) {
  ForwardRequest request;
  request.ids = random_ids(20, kWords, 4);
  request.end = 20;
  request.logits = true;
  return forward(m, request, nullptr).logits;
}

std::vector<std::string> names(const std::vector<std::vector<Param*>>& groups, size_t group) {
  std::vector<std::string> all;
  for (const Param* p : groups.at(group)) all.push_back(p->name);
  return all;
}

using Words = std::vector<std::string>;

// Draws, and the sequences that they make with their prompt; and how far scoring is from drawing, at most.
struct Drawn { std::vector<GeneratedSequence> drawn; std::vector<SequenceInput> sequences; };
Drawn draw(Model& m) {
  GenerateRequest request;
  request.ids = {5, 8, kPause, 9, 4, kPause, 7, 20, 31, kPause, 11, 6};
  request.copies = 2;
  request.sampling.max_tokens = 12;
  request.sampling.suppress = {kPause};
  Drawn d{Generator(m, 1 << 24, false).generate({request, request}, {}, nullptr), {}};
  CHECK(d.drawn.size() == 4);
  for (const GeneratedSequence& g : d.drawn) {
    SequenceInput& s = d.sequences.emplace_back();
    s.ids = request.ids;
    s.ids.insert(s.ids.end(), g.ids.begin(), g.ids.end());
    std::vector<uint8_t> scored(s.ids.size(), 0);
    std::fill(scored.begin() + static_cast<std::ptrdiff_t>(request.ids.size()), scored.end(), uint8_t{1});
    s.targets = targets_of(s.ids, scored);
  }
  return d;
}
double apart(Model& m, const Drawn& d) {
  const auto logp = sequence_log_probs(m, d.sequences, true, 4096, nullptr);
  double most = 0;
  for (size_t i = 0; i < logp.size(); ++i)
    for (size_t t = 0; t < logp[i].size(); ++t) most = std::max(most, std::abs(static_cast<double>(logp[i][t]) - static_cast<double>(d.drawn[i].logp[t])));
  return most;
}

}  // namespace

TEST("family: one that is declared in a test loads, and computes what a Llama with its values does") {
  const ScratchFolder dir;
  write_toy(dir.path + "/toy");
  const auto toy = Model::load(dir.path + "/toy", toy_options());
  CHECK(toy->family == "toy" && toy->config.model_type == "toy");
  write_twin(dir.path + "/twin", *toy);
  const auto twin = Model::load(dir.path + "/twin", toy_options());
  const std::vector<float> logits = logits_of(*toy);
  CHECK(logits.size() == 20 * kWords && *std::max_element(logits.begin(), logits.end()) > 0.1f);
  CHECK(logits == logits_of(*twin), "the same bits");
  CHECK(toy->parameters == twin->parameters, toy->parameters, " and ", twin->parameters);
  CHECK(Model::outline(dir.path + "/toy", toy_options())->parameters == toy->parameters);
}

TEST("family: what was trained is saved under the family's names and loads again") {
  const ScratchFolder dir;
  write_toy(dir.path + "/toy");
  const auto toy = Model::load(dir.path + "/toy", toy_options());
  CHECK(toy->save(dir.path + "/untouched").hash == toy->hash());
  CHECK(Model::load(dir.path + "/untouched", toy_options())->hash() == toy->hash());
  const std::string before = toy->hash();
  TrainerOptions o;
  o.learning_rate = 1e-2;
  o.loss.loss = "sft";
  Trainer trainer(*toy, o);
  SequenceInput s{random_ids(12, kWords, 5), {}, {}};
  s.targets = targets_of(s.ids, std::vector<uint8_t>(12, 1));
  trainer.train_step_sft({s}, nullptr);
  toy->save(dir.path + "/trained");
  const auto again = Model::load(dir.path + "/trained", toy_options());
  CHECK(again->hash() == toy->hash() && again->hash() != before);
  for (const Param& p : toy->params) CHECK(again->parameter(p.name) == toy->parameter(p.name), p.name);
  CHECK(logits_of(*again) == logits_of(*toy));
}

TEST("family: a group goes on when it is opened again, vectors stand before matrices, biases behind them") {
  const ScratchFolder dir;
  write_toy(dir.path + "/toy");
  const auto toy = Model::load(dir.path + "/toy", toy_options());
  const auto groups = toy->groups(Part::Decoder);
  CHECK(groups.size() == kDeep + 1);
  const Words layer{"toy.blocks.0.before",      "toy.blocks.0.between",     "toy.blocks.0.qkv.weight", "toy.blocks.0.out.weight",
                    "toy.blocks.0.gate.weight", "toy.blocks.0.up.weight", "toy.blocks.0.down.weight"};
  CHECK(names(groups, 0) == layer);
  CHECK(names(groups, kDeep) == (Words{"toy.words.table", "toy.last.norm"}), "a tied head has no parameter of its own");
  CHECK(toy->groups(Part::Vision).empty() && toy->groups(Part::Projector).empty());

  const auto hound = Model::load("test/golden/llava_hound/policy", {});
  const std::string tower = "model.image_tower.image_tower.";
  CHECK(names(hound->groups(Part::Vision), 0) == (Words{tower + "embeddings.class_embedding", tower + "embeddings.position_embedding.weight",
                                                        tower + "embeddings.patch_embedding.weight", tower + "pre_layrnorm.weight", tower + "pre_layrnorm.bias"}));
  CHECK(names(hound->groups(Part::Projector), 0) ==
        (Words{"model.mm_projector.0.weight", "model.mm_projector.0.bias", "model.mm_projector.2.weight", "model.mm_projector.2.bias"}));
}

TEST("family: another spelling of a root is found; tensors inside a declared block that nothing declares are refused") {
  struct Row { const char *name, *root, *more, *code; };
  const Row rows[] = {
      {"the first spelling", "toy.", "", ""},
      {"the second spelling", "older_toy.", "", ""},
      {"a tensor beside the blocks is kept", "toy.", "toy.optional", ""},
      {"a tensor in a layer", "toy.", "toy.blocks.1.scale", "CHECKPOINT_UNSUPPORTED"},
      {"a tensor of a layer that the config does not ask for", "toy.", "toy.blocks.2.scale", ""},
      {"a tensor beside the table", "toy.", "toy.words.scale", "CHECKPOINT_UNSUPPORTED"},
  };
  for (const Row& row : rows) {
    const ScratchFolder dir;
    write_toy(dir.path + "/toy", row.root, row.more);
    std::string first;
    const std::string code = thrown_code([&] { first = Model::load(dir.path + "/toy", toy_options())->params.front().name; });
    CHECK(code == row.code, row.name, ": ", code);
    if (code.empty()) CHECK(first == row.root + std::string("words.table"), row.name, ": ", first);
  }
  const ScratchFolder dir;
  write_toy(dir.path + "/toy");
  CHECK(thrown_code([&] { Model::load(dir.path + "/toy", {}); }) == "CHECKPOINT_UNSUPPORTED", "without the row");
}

TEST("family: its rule of positions reaches outputs, scoring and generation") {
  const ScratchFolder dir;
  write_toy(dir.path + "/plain");
  write_toy(dir.path + "/doubled", "toy.", "", "doubled");
  const auto plain = Model::load(dir.path + "/plain", toy_options()), twice = Model::load(dir.path + "/doubled", toy_options());
  write_twin(dir.path + "/stretched", *plain, ",\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":0.5}");
  CHECK(logits_of(*twice) == logits_of(*Model::load(dir.path + "/stretched", toy_options())), "twice the position is twice the frequency");
  CHECK(logits_of(*twice) != logits_of(*plain));

  write_toy(dir.path + "/paused", "toy.", "", "paused");
  const auto model = Model::load(dir.path + "/paused", toy_options());
  const Drawn drawn = draw(*model);
  CHECK(apart(*model, drawn) < 1e-5, apart(*model, drawn));
  CHECK(apart(*plain, drawn) > 1e-3, apart(*plain, drawn), ": the rule matters");
}

TEST("family: rotary pairs turn by the axis that the family gives them, in outputs, scoring and generation") {
  const ScratchFolder dir;
  write_toy(dir.path + "/plain");
  const auto plain = Model::load(dir.path + "/plain", toy_options());
  const std::vector<float> straight = logits_of(*plain);
  const std::vector<double> frequencies = plain->rope_frequencies;
  const struct { const char* type; const std::vector<int32_t>& axis; } layouts[] = {{"sections", kSections}, {"interleaved", kInterleaved}};
  for (const auto& layout : layouts) {
    write_toy(dir.path + "/" + layout.type, "toy.", "", layout.type);
    const auto model = Model::load(dir.path + "/" + layout.type, toy_options());
    for (size_t pair = 0; pair < frequencies.size(); ++pair) plain->rope_frequencies[pair] = frequencies[pair] * (1 << layout.axis[pair]);
    const std::vector<float> logits = logits_of(*model);
    CHECK(logits == logits_of(*plain), layout.type, ": twice the position is twice the pair's frequency");
    CHECK(logits != straight, layout.type);
  }
  plain->rope_frequencies = frequencies;
  write_toy(dir.path + "/spread", "toy.", "", "spread");
  const auto model = Model::load(dir.path + "/spread", toy_options());
  const Drawn drawn = draw(*model);
  CHECK(apart(*model, drawn) < 1e-5, apart(*model, drawn));
  write_toy(dir.path + "/paused", "toy.", "", "paused");
  const auto first_axis = Model::load(dir.path + "/paused", toy_options());
  CHECK(apart(*first_axis, drawn) > 1e-4, apart(*first_axis, drawn), ": the other axes matter");
}

TEST("positions: sections and interleaved pairs, as published models lay them out") {
  const std::vector<int64_t> contiguous{16, 24, 24}, mixed{24, 20, 20};
  const std::vector<int32_t> sections = rope_sections(contiguous), interleaved = rope_interleaved(mixed);
  CHECK(sections.size() == 64 && interleaved.size() == 64);
  for (size_t i = 0; i < 64; ++i) {
    CHECK(sections[i] == (i < 16 ? 0 : i < 40 ? 1 : 2), i, ": ", sections[i]);
    CHECK(interleaved[i] == (i < 60 ? static_cast<int32_t>(i % 3) : 0), i, ": ", interleaved[i]);
  }
  CHECK(rope_sections(std::vector<int64_t>{2, 1, 1}) == kSections && rope_interleaved(std::vector<int64_t>{2, 1, 1}) == kInterleaved);
}

TEST("family: a rule of positions is told where media stand") {
  auto m = Model::load("test/golden/llava_hound/policy", {});
  const std::vector<float> pixels(8 * 3 * 28 * 28, 0.25f);
  const Medium& clip = m->media.add_pixels(*m, false, 8, pixels);
  std::vector<int32_t> ids{1, 2};
  for (int32_t i = 0; i < clip.rows; ++i) {
    ids.push_back(clip.first_id + i);
    if (i == 2) ids.push_back(7);   // the layouts may divide a clip
  }
  const std::vector<PlacedMedium> placed = m->media.placed(ids, m->config.vocab);
  CHECK(placed.size() == 2 && placed[0].begin == 2 && placed[0].rows == 3 && placed[0].from == 0);
  CHECK(placed.size() == 2 && placed[1].begin == 6 && placed[1].rows == clip.rows - 3 && placed[1].from == 3);
  CHECK(placed.size() == 2 && placed[1].grid == m->declaration().grid(m->vision->config.tower(false), 8));
}

TEST("family: grids that are none are refused") {
  auto m = Model::load("test/golden/qwen3_vl/policy", {});   // squares of 2 x 2 patches
  const int64_t values = m->vision->video->config.patch_values(), far = int64_t{1} << 40;
  const std::string many = "multiples of 2, 1048576 patches at most";
  const auto refusal = [&](bool image, const Grid& grid, size_t count) {
    try {
      m->media.add_patches(*m, image, grid, 1, std::vector<float>(count));
    } catch (const Error& e) {
      return e.code + ": " + e.what();
    }
    return std::string();
  };
  for (const Grid& grid : {Grid{0, 2, 2}, Grid{1, 0, 2}, Grid{1, 3, 2}, Grid{1, 2, 5}, Grid{-1, 2, 2}, Grid{far, 2, 2}, Grid{1, far, 2}, Grid{1, 2, far}, Grid{1024, 1024, 1024}, Grid{2, 1024, 1024}})
    CHECK(refusal(false, grid, 0).find(many) != std::string::npos, grid.t, " ", grid.h, " ", grid.w, ": ", refusal(false, grid, 0));
  CHECK(refusal(true, {2, 2, 2}, static_cast<size_t>(8 * values)).find("one step of time for an image") != std::string::npos);
  CHECK(refusal(false, {2, 2, 2}, static_cast<size_t>(8 * values - 1)).find("got 767 values") != std::string::npos, refusal(false, {2, 2, 2}, static_cast<size_t>(8 * values - 1)));
  CHECK(refusal(false, {2, 2, 2}, static_cast<size_t>(8 * values)).empty());
  auto other = Model::load("test/golden/llava_hound/policy", {});
  CHECK(thrown_code([&] { other->media.add_patches(*other, false, {1, 2, 2}, 1, {}); }) == "INVALID_ARGUMENT");
  CHECK(thrown_code([&] { m->media.add_pixels(*m, false, 8, {}); }) == "INVALID_ARGUMENT");
}

TEST("family: positions of several axes stand one axis behind another in a batch") {
  const auto rule = [](std::span<const int32_t> ids) {
    SequencePositions p;
    p.axes = 2;
    for (size_t t = 0; t < ids.size(); ++t) p.values.push_back(static_cast<int32_t>(t));
    for (size_t t = 0; t < ids.size(); ++t) p.values.push_back(static_cast<int32_t>(10 * t));
    return p;
  };
  const std::vector<int32_t> none(4, -1);
  const std::vector<SequenceInput> pair{{{1, 2, 3, 4}, none, {}}, {{1, 2, 5, 6}, none, {}}};
  const Batch b = make_batch(pair, true, rule);
  CHECK(b.positions == (PositionRows{{0, 1, 2, 3, 2, 3}, {0, 10, 20, 30, 20, 30}}), b.tokens());
}

}  // namespace isr::test
