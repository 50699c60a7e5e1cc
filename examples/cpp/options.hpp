/* What the broker can be told on its command line. */

#ifndef OPTIONS_HPP
#define OPTIONS_HPP

#include <rte_ethdev.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

inline constexpr char usage[] =
    "usage: broker [EAL OPTION]... -- [OPTION]... BUNDLE [LABEL=PORT]...\n"
    "\n"
    "Takes frames from a DPDK port, one receive queue per lcore, and sends the frames of each flow out of the PORT of\n"
    "its label, as soon as the classifier in BUNDLE has made up its mind; all else leaves by the default port. Ctrl-C\n"
    "stops.\n"
    "\n"
    "  --in PORT            where frames come in (0)\n"
    "  --default PORT       where frames leave that no LABEL=PORT concerns (0)\n"
    "  --set KEY=VALUE      any setting of the library, such as flows.memory=64M or engine=native\n"
    "  --batch N            run the network when N flows are due, or a millisecond after the last time (8)\n"
    "  --steered N          flows per queue that may have a port at a time (131072)\n"
    "  --timestamps HZ      take times from the frames, in ticks of which HZ are a second (net_pcap: 1000000); else\n"
    "                       the time counts at which a frame was read\n"
    "  --verdicts           print each flow with its final verdict\n"
    "  --until-quiet S      stop when no frame came for S seconds\n";

/* What the user can mend. */
struct wrong : std::runtime_error {
  using runtime_error::runtime_error;
};

struct options {
  std::uint16_t in = 0, otherwise = 0;
  std::size_t batch = 8, steered = 1 << 17;
  std::uint64_t ticks_per_second = 0;
  double until_quiet_s = 0, idle_timeout_s = 60;
  bool print_verdicts = false;
  std::vector<std::pair<std::string, std::string>> settings;
  std::string bundle;
  std::map<std::string, std::uint16_t> ports;
};

inline std::uint64_t number(const std::string &name, const std::string &text, std::uint64_t max) {
  char *end = nullptr;
  const std::uint64_t value = std::strtoull(text.c_str(), &end, 10);
  if (text.empty() || text[0] < '0' || text[0] > '9' || *end != '\0' || value > max) {
    throw wrong(name + " is \"" + text + "\"; it must be a whole number in 0.." + std::to_string(max));
  }
  return value;
}

inline double seconds(const std::string &name, const std::string &text) {
  char *end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !(value > 0 && value < 1e9)) {
    throw wrong(name + " is \"" + text + "\"; it must be seconds, more than 0");
  }
  return value;
}

inline std::uint16_t port(const std::string &name, const std::string &text) {
  const auto id = static_cast<std::uint16_t>(number(name, text, RTE_MAX_ETHPORTS - 1));
  if (!rte_eth_dev_is_valid_port(id)) {
    throw wrong(name + ": there is no port " + text + "; EAL found " + std::to_string(rte_eth_dev_count_avail()) +
                " (bind a NIC with dpdk-devbind.py, or make one with --vdev)");
  }
  return id;
}

inline std::pair<std::string, std::string> split(const std::string &name, const std::string &text) {
  const std::size_t at = text.rfind('=');
  if (at == std::string::npos || at == 0) throw wrong(name + ": \"" + text + "\" has no = inside");
  return {text.substr(0, at), text.substr(at + 1)};
}

inline options parse(const std::vector<std::string> &arguments) {
  options o;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string &argument = arguments[i];
    const auto value = [&]() -> const std::string & {
      if (i + 1 == arguments.size()) throw wrong(argument + " needs a value");
      return arguments[++i];
    };
    if (argument == "--in") {
      o.in = port(argument, value());
    } else if (argument == "--default") {
      o.otherwise = port(argument, value());
    } else if (argument == "--batch") {
      o.batch = std::max<std::size_t>(1, number(argument, value(), 1 << 16));
    } else if (argument == "--steered") {
      o.steered = std::max<std::size_t>(1, number(argument, value(), 1 << 26));
    } else if (argument == "--timestamps") {
      o.ticks_per_second = number(argument, value(), 1'000'000'000'000);
    } else if (argument == "--until-quiet") {
      o.until_quiet_s = seconds(argument, value());
    } else if (argument == "--verdicts") {
      o.print_verdicts = true;
    } else if (argument == "--set") {
      o.settings.push_back(split(argument, value()));
      if (o.settings.back().first == "flows.idle_timeout") {
        o.idle_timeout_s = seconds("flows.idle_timeout", o.settings.back().second);
      }
    } else if (argument[0] == '-') {
      throw wrong(argument + " is no option");
    } else if (o.bundle.empty()) {
      o.bundle = argument;
    } else {
      const auto [label, id] = split("LABEL=PORT", argument);
      o.ports[label] = port(argument, id);
    }
  }
  if (o.bundle.empty()) throw wrong("a bundle is needed");
  port("--in", std::to_string(o.in));
  port("--default", std::to_string(o.otherwise));
  return o;
}

#endif
