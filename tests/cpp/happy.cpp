/* Every call once, as meant, throwing on errors. tests/cpp_api.rs compares what it prints with what tests/c/happy.c does. */
#include <cinttypes>

#include "check.hpp"

namespace tgpt = trafficgpt;

static unsigned bits(float value) {
  std::uint32_t out;
  std::memcpy(&out, &value, sizeof out);
  return out;
}

static void print_flow(tgpt::span<const tgpt::packet> packets) {
  for (const tgpt::packet &packet : packets) std::printf(" %d:%08x", packet.size, bits(packet.ipt_us));
  std::printf("\n");
}

static void quantize(const tgpt::context &context, const char *bundle, tgpt::ragged flows) {
  const auto quantizer = tgpt::quantizer::open(context, bundle).value();
  std::vector<std::uint32_t> tokens(flows.packets().size());
  std::vector<tgpt::packet> back(tokens.size());
  quantizer.encode(flows.packets(), tokens).value();
  quantizer.decode(tokens, back).value();
  quantizer.encode({}, {}).value();
  quantizer.decode({}, {}).value();
  std::printf("quantizer %u\n", quantizer.n_tokens());
  for (const std::uint32_t token : tokens) std::printf(" %u", token);
  std::printf("\n");
  print_flow(back);
  quantizer.decode_sampled(tokens, 5, 6, back).value();
  quantizer.decode_sampled({}, 5, 6, {}).value();
  print_flow(back);
}

static void classify(const tgpt::context &context, tgpt::worker &worker, const char *bundle, tgpt::ragged flows) {
  const auto classifier = tgpt::classifier::open(context, bundle).value();
  const std::uint32_t n_labels = classifier.n_labels(), dim = classifier.embedding_dim();
  std::printf("classifier %s %u\n", std::string(classifier.engine()).c_str(), dim);
  for (std::uint32_t j = 0; j < n_labels; ++j) std::printf(" %s", std::string(classifier.label(j)).c_str());
  std::printf("\n");
  CHECK(classifier.label(n_labels).empty() && classifier.label(TGPT_UNKNOWN).empty());
  std::vector<std::uint32_t> labels(flows.size()), again(flows.size());
  std::vector<float> scores(flows.size() * n_labels), embeddings(flows.size() * dim);
  classifier.classify(worker, flows, labels, scores).value();
  classifier.classify(worker, flows, again).value();
  CHECK(labels == again);
  classifier.embed(worker, flows, embeddings).value();
  /* Zero flows are legal. */
  classifier.classify(worker, {}, {}).value();
  classifier.classify(worker, tgpt::rows(), {}, {}).value();
  classifier.embed(worker, {}, {}).value();
  for (std::size_t i = 0; i < flows.size(); ++i) {
    std::printf(" %u", labels[i]);
    for (std::uint32_t j = 0; j < n_labels; ++j) std::printf(" %08x", bits(scores[i * n_labels + j]));
    for (std::uint32_t j = 0; j < dim; ++j) std::printf(" %08x", bits(embeddings[i * dim + j]));
    std::printf("\n");
  }
}

static void generate(const tgpt::context &context, tgpt::worker &worker, const char *bundle) {
  const auto generator = tgpt::generator::open(context, bundle).value();
  std::printf("generator %s %u\n", std::string(generator.engine()).c_str(), generator.max_packets());
  for (std::uint32_t j = 0; j < generator.n_classes(); ++j) {
    std::printf(" %s", std::string(generator.class_name(j)).c_str());
  }
  std::printf("\n");
  CHECK(generator.class_name(generator.n_classes()).empty() && generator.class_name(TGPT_UNKNOWN).empty());
  tgpt::sampling sampling;
  sampling.seed = 7;
  sampling.class_id = 1;
  sampling.max_packets = 12;
  const tgpt::rows flows = generator.generate(worker, sampling, 9).value();
  CHECK(flows.size() == 9);
  for (std::size_t i = 0; i < flows.size(); ++i) print_flow(flows[i]);
  tgpt::rows halves;
  for (std::size_t i = 0; i < flows.size(); ++i) halves.push_back(flows[i].first(flows[i].size() / 2));
  const std::uint32_t banned[] = {3, 5};
  tgpt::sampling longer = sampling;
  longer.min_packets = 8;
  longer.banned = banned;
  longer.n_banned = 2;
  for (const tgpt::sampling &how : {sampling, longer}) {
    const tgpt::rows whole = generator.continue_flows(worker, how, halves).value();
    for (std::size_t i = 0; i < whole.size(); ++i) print_flow(whole[i]);
  }
  CHECK(generator.continue_flows(worker, sampling, {}).value().size() == 0);
  std::vector<float> nll(flows.size()), of_any(flows.size());
  generator.score(worker, 1, flows, nll).value();
  generator.score(worker, TGPT_UNKNOWN, flows, of_any).value();
  generator.score(worker, 1, {}, {}).value();
  for (const float value : nll) std::printf(" %08x", bits(value));
  for (const float value : of_any) std::printf(" %08x", bits(value));
  std::printf("\n");
  CHECK(generator.generate(worker, sampling, 0).value().size() == 0);
  /* More flows than are drawn at once: the same flows as of two calls. */
  sampling.max_packets = 1;
  const tgpt::rows many = generator.generate(worker, sampling, 5000).value();
  sampling.first_flow = 4990;
  const tgpt::rows last = generator.generate(worker, sampling, 10).value();
  CHECK(many.size() == 5000 && many.view().packets().size() == 5000);
  for (std::size_t i = 0; i < 10; ++i) {
    const auto a = many[4990 + i], b = last[i];
    CHECK(a.size() == 1 && b.size() == 1 && a[0].size == b[0].size && bits(a[0].ipt_us) == bits(b[0].ipt_us));
  }
  sampling.first_flow = 0;
  sampling.max_packets = 2;
  const tgpt::rows longer_ones = generator.continue_flows(worker, sampling, many).value();
  sampling.first_flow = 4990;
  const tgpt::rows last_ones = generator.continue_flows(worker, sampling, last).value();
  CHECK(longer_ones.size() == 5000 && last_ones.size() == 10);
  for (std::size_t i = 0; i < 10; ++i) {
    const auto a = longer_ones[4990 + i], b = last_ones[i];
    CHECK(a.size() == b.size() && a[a.size() - 1].size == b[b.size() - 1].size);
  }
}

static void capture(const tgpt::config &config, const char *path) {
  const auto capture = tgpt::capture::open(path, config).value();
  const tgpt::ragged flows = capture.flows().value();
  const std::string warning(capture.warning());
  std::printf("capture %zu %s\n", capture.size(), warning.empty() ? "whole" : warning.c_str());
  for (std::size_t i = 0; i < flows.size(); ++i) {
    const tgpt::flow_info info = capture.info(i).value();
    std::printf(" %" PRIu64 " %" PRIu64 " %" PRIu64 " %u %u %u %u ", info.start_ns, info.end_ns, info.n_packets,
                info.client_port, info.server_port, info.protocol, info.ip_version);
    for (const unsigned byte : info.client) std::printf("%02x", byte);
    std::printf(" ");
    for (const unsigned byte : info.server) std::printf("%02x", byte);
    print_flow(flows[i]);
  }
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  int lines = 0;
  auto hook = [&lines](std::int32_t level, std::string_view line) noexcept {
    CHECK(level == TGPT_LOG_INFO && !line.empty());
    ++lines;
  };
  const tgpt::config config = native();
  const auto context = tgpt::context::make(config, tgpt::log_to(hook)).value();
  auto worker = tgpt::worker::make(context).value();
  const tgpt::rows flows = some_flows();
  quantize(context, argv[1], flows);
  classify(context, worker, argv[1], flows);
  generate(context, worker, argv[1]);
  capture(config, argv[2]);
  CHECK(lines == 2);
  return failures != 0;
}
