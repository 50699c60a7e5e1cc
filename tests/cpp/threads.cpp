/* Threads that share a model give what one gives; others swap and read while one pushes; one worker on two threads is
 * refused. */
#include <atomic>
#include <thread>

#include "check.hpp"

namespace tgpt = trafficgpt;

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  const auto context = GOOD(tgpt::context::make(native()));
  const auto classifier = GOOD(tgpt::classifier::open(context, argv[1]));
  const tgpt::rows rows = some_flows();
  const auto labels_of = [&](tgpt::worker &worker) {
    std::vector<std::uint32_t> labels(rows.size());
    GOOD(classifier.classify(worker, rows, labels));
    return labels;
  };
  tgpt::worker worker = GOOD(tgpt::worker::make(context));
  const auto alone = labels_of(worker);

  std::vector<std::vector<std::uint32_t>> many(8);
  std::vector<std::thread> threads;
  for (auto &labels : many) {
    threads.emplace_back([&] {
      auto own = GOOD(tgpt::worker::make(context));
      for (int round = 0; round < 3; ++round) labels = labels_of(own);
    });
  }
  for (auto &thread : threads) thread.join();
  for (const auto &labels : many) CHECK(labels == alone);

  std::atomic<int> busy{0}, ok{0};
  const auto contend = [&] {
    std::vector<std::uint32_t> labels(rows.size());
    for (int round = 0; round < 3000 && (busy == 0 || ok == 0); ++round) {
      const auto got = classifier.classify(worker, rows, labels);
      if (got) {
        ++ok;
      } else {
        CHECK(got.error().code() == TGPT_E_BUSY);
        ++busy;
      }
    }
  };
  std::thread one(contend), two(contend);
  one.join();
  two.join();
  CHECK(busy > 0 && ok > 0);

  auto flows = GOOD(tgpt::flows::make(classifier));
  const tgpt::flows &shared = flows;
  std::atomic<bool> done{false};
  std::thread reader([&] {
    while (!done) {
      CHECK(GOOD(shared.stats()).front() == '{' && shared.due() < 1000);
      GOOD(shared.swap(classifier));
    }
  });
  std::vector<tgpt::verdict> verdicts(64);
  std::size_t finals = 0;
  for (std::uint32_t i = 0; i < 500; ++i) {
    std::vector<tgpt::observation> burst(2);
    for (auto &o : burst) {
      o.ts_ns = 1 + i;
      o.size = 100;
      o.src[0] = static_cast<std::uint8_t>(i);
      o.src[1] = static_cast<std::uint8_t>(i >> 8);
    }
    GOOD(flows.push(burst));
    if (i % 50 == 49) GOOD(flows.flush());
    for (const auto &v : GOOD(flows.poll(verdicts))) finals += v.is_final;
  }
  done = true;
  reader.join();
  CHECK(finals == 500);
  return failures != 0;
}
