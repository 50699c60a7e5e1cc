/* What the C++ test programs share: checks that count, and the flows of tests/c/check.h. */
#ifndef CHECK_HPP
#define CHECK_HPP

#include <cstdio>
#include <cstring>
#include <string>
#include <trafficgpt.hpp>
#include <vector>

inline int failures = 0;

inline void check(bool good, const char *what, int line) {
  if (good) return;
  std::printf("line %d: %s\n", line, what);
  ++failures;
}
#define CHECK(condition) check((condition), #condition, __LINE__)

/* That `got` failed with `code` and a sentence that has `says`. */
template <typename T>
void check_refused(const trafficgpt::result<T> &got, tgpt_status code, const char *says, int line) {
  const trafficgpt::error &why = got.error();
  if (!got && why.code() == code && std::strstr(why.what(), says) != nullptr) return;
  std::printf("line %d: %s (%d) has no \"%s\"\n", line, why.what(), static_cast<int>(why.code()), says);
  ++failures;
}
#define REFUSED(code, says, call) check_refused((call), (code), (says), __LINE__)

/* The value of a call that must succeed. */
#define GOOD(call) good((call), #call, __LINE__)

template <typename T>
T good(trafficgpt::result<T> got, const char *call, int line) {
  if (!got) {
    std::printf("line %d: %s: %s\n", line, call, got.error().what());
    std::exit(1);
  }
  if constexpr (!std::is_void_v<T>) return *std::move(got);
}

constexpr std::size_t N_FLOWS = 70;

inline trafficgpt::rows some_flows() {
  trafficgpt::rows flows;
  for (int flow = 0; flow < static_cast<int>(N_FLOWS); ++flow) {
    std::vector<trafficgpt::packet> packets;
    for (int i = 0; i < 1 + flow * 7 % 21; ++i) {
      const int bytes = 40 + (flow * 31 + i * 17) % 1460;
      const int quarters = (flow * 13 + i * 1013) % 1000 << (flow + i) % 12;
      packets.push_back({i * (i + flow) % 5 > 1 ? -bytes : bytes, i > 0 ? 0.25f * static_cast<float>(quarters) : 0.0f});
    }
    flows.push_back(packets);
  }
  return flows;
}

inline trafficgpt::config native() {
  trafficgpt::config config = GOOD(trafficgpt::config::make());
  GOOD(config.set("engine", "native"));
  return config;
}

#endif
