/* Handles that are empty, moved and freed in every order; errors, thrown and returned; views. */
#include <array>
#include <deque>
#if __cplusplus >= 202002L
#include <span>
#endif

#include "check.hpp"

namespace tgpt = trafficgpt;

template <typename Handle>
constexpr bool moves_only = std::is_nothrow_move_constructible_v<Handle> && std::is_nothrow_move_assignable_v<Handle> &&
                            !std::is_copy_constructible_v<Handle> && !std::is_copy_assignable_v<Handle> &&
                            sizeof(Handle) == sizeof(void *);
static_assert(moves_only<tgpt::config> && moves_only<tgpt::context> && moves_only<tgpt::worker>);
static_assert(moves_only<tgpt::capture> && moves_only<tgpt::quantizer> && moves_only<tgpt::classifier>);
static_assert(moves_only<tgpt::generator> && moves_only<tgpt::flows>);

template <typename T, typename From>
constexpr bool views = std::is_convertible_v<From, tgpt::span<T>>;
using packets = std::vector<tgpt::packet>;
static_assert(views<tgpt::packet, packets &> && views<const tgpt::packet, const packets &>);
static_assert(!views<tgpt::packet, const packets &>, "what is const stays so");
static_assert(views<const tgpt::packet, tgpt::span<tgpt::packet>> && views<const int, const int (&)[3]>);
static_assert(views<const int, const std::array<int, 2> &> && views<char, std::string &>);
static_assert(!views<const int, const std::deque<int> &> && !views<const int, std::vector<long> &>);
#if __cplusplus >= 202002L
static_assert(views<const int, std::span<int>> && views<int, std::span<int>> && views<const int, std::span<const int>>);
static_assert(!views<int, std::span<const int>>);
#endif

/* Every call on an empty handle is refused, and names what is missing. */
static void empty_handles(const char *bundle) {
  tgpt::config config;
  tgpt::context context;
  tgpt::worker worker;
  tgpt::capture capture;
  tgpt::quantizer quantizer;
  tgpt::classifier classifier;
  tgpt::generator generator;
  tgpt::flows flows;
  std::uint32_t label = 0;
  float score = 0;
  tgpt::packet packet{};
  tgpt::rows one;
  one.push_back({{60, 0}});
  CHECK(!config && !context && !worker && !capture && !quantizer && !classifier && !generator && !flows);
  CHECK(context.get() == nullptr && context.release() == nullptr);

  REFUSED(TGPT_E_INVALID, "config is NULL", config.set("engine", "native"));
  REFUSED(TGPT_E_INVALID, "config is empty", tgpt::context::make(config));
  REFUSED(TGPT_E_INVALID, "config is empty", tgpt::context::make(config, tgpt_hooks{}));
  REFUSED(TGPT_E_INVALID, "config is empty", tgpt::capture::open("x.pcap", config));
  REFUSED(TGPT_E_INVALID, "config is empty", tgpt::flows::make(classifier, config));
  REFUSED(TGPT_E_INVALID, "context is NULL", tgpt::worker::make(context));
  REFUSED(TGPT_E_INVALID, "context is NULL", tgpt::quantizer::open(context, bundle));
  REFUSED(TGPT_E_INVALID, "context is NULL", tgpt::classifier::open(context, bundle));
  REFUSED(TGPT_E_INVALID, "context is NULL", tgpt::generator::open(context, bundle));
  REFUSED(TGPT_E_INVALID, "classifier is NULL", tgpt::flows::make(classifier));

  CHECK(capture.size() == 0 && capture.warning().empty());
  REFUSED(TGPT_E_INVALID, "capture is NULL", capture.flows());
  REFUSED(TGPT_E_INVALID, "capture is NULL", capture.info(0));
  CHECK(quantizer.n_tokens() == 0);
  REFUSED(TGPT_E_INVALID, "quantizer is NULL", quantizer.encode({&packet, 1}, {&label, 1}));
  REFUSED(TGPT_E_INVALID, "quantizer is NULL", quantizer.decode({&label, 1}, {&packet, 1}));
  REFUSED(TGPT_E_INVALID, "quantizer is NULL", quantizer.decode_sampled({&label, 1}, 0, 0, {&packet, 1}));
  CHECK(classifier.n_labels() == 0 && classifier.embedding_dim() == 0 && classifier.engine().empty());
  CHECK(classifier.label(0).empty());
  REFUSED(TGPT_E_INVALID, "classifier is NULL", classifier.classify(worker, one, {&label, 1}, {&score, 1}));
  REFUSED(TGPT_E_INVALID, "classifier is NULL", classifier.embed(worker, one, {&score, 1}));
  CHECK(generator.n_classes() == 0 && generator.max_packets() == 0 && generator.engine().empty());
  CHECK(generator.class_name(0).empty());
  REFUSED(TGPT_E_INVALID, "generator is NULL", generator.generate(worker, tgpt::sampling(), 1));
  REFUSED(TGPT_E_INVALID, "generator is NULL", generator.score(worker, 0, one, {&score, 1}));
  CHECK(flows.due() == 0);
  REFUSED(TGPT_E_INVALID, "flows is NULL", flows.push({}));
  REFUSED(TGPT_E_INVALID, "flows is NULL", flows.push_frames(1, {}, {}));
  REFUSED(TGPT_E_INVALID, "flows is NULL", flows.poll({}));
  REFUSED(TGPT_E_INVALID, "flows is NULL", flows.swap(classifier));
  REFUSED(TGPT_E_INVALID, "flows is NULL", flows.flush());
  REFUSED(TGPT_E_INVALID, "flows is NULL", flows.stats());
}

/* What C cannot see: sizes of buffers. And what it does: everything else. */
static void bad_arguments(const tgpt::context &context, const char *bundle) {
  const auto quantizer = GOOD(tgpt::quantizer::open(context, bundle));
  const auto classifier = GOOD(tgpt::classifier::open(context, bundle));
  const auto generator = GOOD(tgpt::generator::open(context, bundle));
  auto flows = GOOD(tgpt::flows::make(classifier));
  auto worker = GOOD(tgpt::worker::make(context));
  const packets two{{60, 0}, {-60, 5}};
  const std::vector<std::uint64_t> far{0, 3}, falls{0, 2, 1}, late{1, 2};
  std::vector<std::uint32_t> labels(3);
  std::vector<float> values(1000);
  std::vector<tgpt::packet> room(3);
  tgpt::rows rows;
  rows.push_back(two);

  REFUSED(TGPT_E_INVALID, "tokens has 3", quantizer.encode(two, labels));
  REFUSED(TGPT_E_INVALID, "packets has 2", quantizer.decode(labels, {room.data(), 2}));
  REFUSED(TGPT_E_INVALID, "packets has 2", quantizer.decode_sampled(labels, 1, 1, {room.data(), 2}));
  REFUSED(TGPT_E_INVALID, "labels has 3", classifier.classify(worker, rows, labels));
  REFUSED(TGPT_E_INVALID, "scores has 1000", classifier.classify(worker, rows, {labels.data(), 1}, values));
  REFUSED(TGPT_E_INVALID, "embeddings has 1000", classifier.embed(worker, rows, values));
  REFUSED(TGPT_E_INVALID, "past the packets", classifier.classify(worker, {two, far}, {labels.data(), 1}));
  REFUSED(TGPT_E_INVALID, "past the packets", classifier.embed(worker, {two, far}, values));
  REFUSED(TGPT_E_INVALID, "past the packets", generator.score(worker, 0, {two, far}, {values.data(), 1}));
  REFUSED(TGPT_E_INVALID, "nll has 1000", generator.score(worker, 0, rows, values));
  REFUSED(TGPT_E_INVALID, "offsets[2]", classifier.classify(worker, {two, falls}, {labels.data(), 2}));
  REFUSED(TGPT_E_INVALID, "offsets must begin", classifier.classify(worker, {two, late}, {labels.data(), 1}));
  REFUSED(TGPT_E_INVALID, "infos has 1", flows.push_frames(1, {}, std::array<tgpt::frame_info, 1>{}));
  REFUSED(TGPT_E_INVALID, "link_type", flows.push_frames(9999, {}, {}));

  tgpt::worker moved = std::move(worker);
  REFUSED(TGPT_E_INVALID, "worker is NULL", classifier.classify(worker, rows, {labels.data(), 1}));
  GOOD(classifier.classify(moved, rows, {labels.data(), 1}));
  tgpt::sampling sampling;
  sampling.class_id = 999;
  REFUSED(TGPT_E_INVALID, "class", generator.generate(moved, sampling, 1));
  REFUSED(TGPT_E_IO, "no/such", tgpt::classifier::open(context, "no/such"));
  REFUSED(TGPT_E_IO, "no/such", tgpt::capture::open("no/such"));
}

#if defined(__cpp_exceptions)
static void exceptions(const tgpt::context &context) {
  bool caught = false;
  try {
    tgpt::classifier::open(context, "no/such").value();
  } catch (const std::exception &why) {
    caught = std::strstr(why.what(), "no/such") != nullptr;
  }
  CHECK(caught);
  try {
    tgpt::config config = tgpt::config::make().value();
    config.set("threads", "0").value();
    caught = false;
  } catch (const tgpt::error &why) {
    caught = why.code() == TGPT_E_INVALID && std::strstr(why.what(), "threads") != nullptr;
  }
  CHECK(caught);
  /* Of a result that stays, too. */
  const tgpt::result<tgpt::worker> none = tgpt::worker::make(tgpt::context());
  try {
    CHECK(none.value().get() == nullptr && false);
  } catch (const tgpt::error &why) {
    CHECK(why.code() == none.error().code() && std::string(why.what()) == none.error().what());
  }
}
#endif

/* Each bit frees something else first; what was made keeps what it needs. */
static void any_order(const char *bundle) {
  const tgpt::rows rows = some_flows();
  for (const int order : {1, 2, 4, 7}) {
    tgpt::context context = GOOD(tgpt::context::make(native()));
    tgpt::classifier classifier = GOOD(tgpt::classifier::open(context, bundle));
    tgpt::worker worker = GOOD(tgpt::worker::make(context));
    tgpt::flows flows = GOOD(tgpt::flows::make(classifier));
    std::vector<std::uint32_t> labels(rows.size());
    if (order & 1) context = {};
    GOOD(classifier.classify(worker, rows, labels));
    if (order & 2) worker = {};
    if (order & 4) classifier = {};
    tgpt::observation two[2]{};
    two[0].size = two[1].size = 100;
    tgpt::verdict verdict;
    GOOD(flows.push(two));
    GOOD(flows.flush());
    CHECK(GOOD(flows.poll({&verdict, 1})).size() == 1 && verdict.is_final == 1);
  }
  /* Assigning frees what was there; assigning to itself, or giving away, frees nothing. */
  tgpt::context context = GOOD(tgpt::context::make()), other = GOOD(tgpt::context::make());
  tgpt_context *kept = other.get();
  context = std::move(other);
  CHECK(context.get() == kept && !other);
  tgpt::context &same = context;
  context = std::move(same);
  CHECK(context.get() == kept);
  CHECK(context.release() == kept && !context);
  context = tgpt::context(kept);
  GOOD(tgpt::worker::make(context));
}

static void rows_and_views() {
  tgpt::rows rows;
  CHECK(rows.size() == 0 && rows.view().offsets().empty());
  rows.push_back({{60, 0}, {-60, 5}});
  rows.push_back(packets{});
  rows.push_back(packets{{70, 0}});
  CHECK(rows.size() == 3 && rows[0].size() == 2 && rows[1].empty() && rows[2][0].size == 70);
  tgpt::rows moved = std::move(rows);
  CHECK(moved.size() == 3 && rows.size() == 0);
  rows.push_back({{80, 0}});
  CHECK(rows.size() == 1 && rows[0][0].size == 80 && rows.view().offsets()[0] == 0);
  moved.clear();
  moved.push_back({{90, 0}});
  CHECK(moved.size() == 1 && moved[0][0].size == 90);
}

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  const auto context = GOOD(tgpt::context::make(native()));
  empty_handles(argv[1]);
  bad_arguments(context, argv[1]);
#if defined(__cpp_exceptions)
  exceptions(context);
#endif
  any_order(argv[1]);
  rows_and_views();
  return failures != 0;
}
