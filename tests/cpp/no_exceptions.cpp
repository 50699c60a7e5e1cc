/* Built with -fno-exceptions -fno-rtti: errors are values. Prints the labels of some flows. */
#include "check.hpp"

#if defined(__cpp_exceptions)
#error "this must be built with -fno-exceptions"
#endif

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  const auto context = trafficgpt::context::make(native());
  if (!context) {
    std::printf("%s\n", context.error().what());
    return 3;
  }
  const auto none = trafficgpt::classifier::open(*context, "no/such");
  CHECK(!none && none.error().code() == TGPT_E_IO && std::strstr(none.error().what(), "no/such") != nullptr);
  const auto classifier = trafficgpt::classifier::open(*context, argv[1]);
  auto worker = trafficgpt::worker::make(*context);
  if (!classifier || !worker) return 3;
  const trafficgpt::rows flows = some_flows();
  std::vector<std::uint32_t> labels(flows.size());
  const auto done = classifier->classify(*worker, flows, labels);
  CHECK(done && done.error().code() == TGPT_OK && done.error().what()[0] == '\0');
  for (const std::uint32_t label : labels) std::printf("%u\n", label);
  return failures != 0;
}
