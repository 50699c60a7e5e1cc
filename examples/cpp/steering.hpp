/* What a broker needs to know of a flow: who it is, in a frame as in a verdict, and by which port it leaves. */

#ifndef STEERING_HPP
#define STEERING_HPP

#include <netinet/in.h>
#include <rte_ether.h>
#include <rte_ip.h>
#include <rte_jhash.h>
#include <rte_mbuf.h>
#include <rte_net.h>
#include <rte_random.h>
#include <rte_tcp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <trafficgpt.hpp>
#include <vector>

/* Both ends of a flow, the lower first, so that both directions are one key. Hashed and compared as bytes. */
struct flow_key {
  struct end {
    std::uint8_t address[16];
    std::uint16_t port;
  };
  end low, high;
  std::uint32_t protocol;

  static flow_key of(const end &a, const end &b, std::uint8_t protocol) {
    const bool in_order = std::memcmp(&a, &b, sizeof a) <= 0;
    return {in_order ? a : b, in_order ? b : a, protocol};
  }
  static flow_key of(const trafficgpt::verdict &v) {
    end client{}, server{};
    std::memcpy(client.address, v.client, sizeof v.client);
    std::memcpy(server.address, v.server, sizeof v.server);
    client.port = v.client_port;
    server.port = v.server_port;
    return of(client, server, v.protocol);
  }
  bool operator==(const flow_key &other) const { return std::memcmp(this, &other, sizeof other) == 0; }
};
static_assert(sizeof(flow_key) == 2 * 18 + 4, "no padding");

struct packet_key {
  flow_key flow;
  /* A SYN without ACK: whatever had this key before is over. */
  bool begins;
};

/* The flow of a frame's outer IP packet. None for what is no IP, is cut, or is a fragment: later fragments do not say
 * their ports, and this way all of a datagram stay together. */
inline std::optional<packet_key> key_of(const rte_mbuf *frame) {
  rte_net_hdr_lens lens{};
  const std::uint32_t type = rte_net_get_ptype(frame, &lens, RTE_PTYPE_L2_MASK | RTE_PTYPE_L3_MASK);
  std::uint32_t at = lens.l2_len;
  flow_key::end source{}, destination{};
  int protocol = -1;
  if (RTE_ETH_IS_IPV4_HDR(type)) {
    rte_ipv4_hdr room;
    const auto *ip = static_cast<const rte_ipv4_hdr *>(rte_pktmbuf_read(frame, at, sizeof room, &room));
    const auto fragment = rte_cpu_to_be_16(RTE_IPV4_HDR_MF_FLAG | RTE_IPV4_HDR_OFFSET_MASK);
    if (ip == nullptr || (ip->fragment_offset & fragment) != 0) return std::nullopt;
    for (flow_key::end *end : {&source, &destination}) end->address[10] = end->address[11] = 0xff;
    std::memcpy(source.address + 12, &ip->src_addr, 4);
    std::memcpy(destination.address + 12, &ip->dst_addr, 4);
    protocol = ip->next_proto_id;
    at += rte_ipv4_hdr_len(ip);
  } else if (RTE_ETH_IS_IPV6_HDR(type)) {
    rte_ipv6_hdr room;
    const auto *ip = static_cast<const rte_ipv6_hdr *>(rte_pktmbuf_read(frame, at, sizeof room, &room));
    if (ip == nullptr) return std::nullopt;
    std::memcpy(source.address, ip->src_addr, 16);
    std::memcpy(destination.address, ip->dst_addr, 16);
    at += sizeof *ip;
    int is_fragment = 0;
    protocol = rte_net_skip_ip6_ext(ip->proto, frame, &at, &is_fragment);
    if (is_fragment != 0) return std::nullopt;
  }
  if (protocol < 0) return std::nullopt;

  bool begins = false;
  switch (protocol) {
    case IPPROTO_TCP: {
      std::uint8_t room;
      const void *flags = rte_pktmbuf_read(frame, at + offsetof(rte_tcp_hdr, tcp_flags), sizeof room, &room);
      if (flags == nullptr) return std::nullopt;
      begins = (*static_cast<const std::uint8_t *>(flags) & (RTE_TCP_SYN_FLAG | RTE_TCP_ACK_FLAG)) == RTE_TCP_SYN_FLAG;
      [[fallthrough]];
    }
    case IPPROTO_UDP:
    case IPPROTO_SCTP:
    case IPPROTO_DCCP:
    case IPPROTO_UDPLITE: {
      rte_be16_t room[2], ports[2];
      const void *read = rte_pktmbuf_read(frame, at, sizeof room, room);
      if (read == nullptr) return std::nullopt;
      std::memcpy(ports, read, sizeof ports);
      source.port = rte_be_to_cpu_16(ports[0]);
      destination.port = rte_be_to_cpu_16(ports[1]);
      break;
    }
    default: break;
  }
  return packet_key{flow_key::of(source, destination, static_cast<std::uint8_t>(protocol)), begins};
}

/* Flows that were told what they are, and the ports they leave by. All memory is taken at once; in a full bucket the
 * flow that was seen the longest ago gives way, and leaves by the default port from then on. */
class steering {
 public:
  /* Room for at least `flows`, each forgotten when no packet came for `idle_ns`. */
  steering(std::size_t flows, std::uint64_t idle_ns) : idle_ns_(idle_ns) {
    std::size_t buckets = 1;
    while (buckets * ways < flows) buckets *= 2;
    entries_.resize(buckets * ways);
  }

  /* The port of a flow, if it has one. */
  std::optional<std::uint16_t> find(const flow_key &key, std::uint64_t now_ns) {
    entry *found = look_up(key);
    if (found == nullptr) return std::nullopt;
    if (found->seen_ns + idle_ns_ < now_ns) {
      found->taken = false;
      return std::nullopt;
    }
    found->seen_ns = std::max(found->seen_ns, now_ns);
    return found->port;
  }
  void put(const flow_key &key, std::uint16_t port, std::uint64_t now_ns) {
    entry *place = look_up(key);
    if (place == nullptr) {
      entry *bucket = bucket_of(key);
      const auto age = [](const entry &e) { return e.taken ? e.seen_ns + 1 : 0; };
      place = std::min_element(bucket, bucket + ways, [&](const entry &a, const entry &b) { return age(a) < age(b); });
    }
    *place = {key, port, true, now_ns};
  }
  void erase(const flow_key &key) {
    if (entry *found = look_up(key)) found->taken = false;
  }

 private:
  struct entry {
    flow_key key;
    std::uint16_t port;
    bool taken;
    std::uint64_t seen_ns;
  };
  static constexpr std::size_t ways = 4;

  /* The seed is secret, so that nobody can choose flows that share a bucket. */
  entry *bucket_of(const flow_key &key) {
    return &entries_[(rte_jhash(&key, sizeof key, seed_) & (entries_.size() / ways - 1)) * ways];
  }
  entry *look_up(const flow_key &key) {
    entry *bucket = bucket_of(key);
    for (std::size_t i = 0; i < ways; ++i) {
      if (bucket[i].taken && bucket[i].key == key) return &bucket[i];
    }
    return nullptr;
  }

  std::vector<entry> entries_;
  std::uint64_t idle_ns_;
  std::uint32_t seed_ = static_cast<std::uint32_t>(rte_rand());
};

#endif
