module trafficgpt-examples

go 1.24.0

require (
	github.com/VictoriaMetrics/metrics v1.44.0
	github.com/gopacket/gopacket v1.2.0
	github.com/nats-io/nats.go v1.48.0
	trafficgpt v0.0.0
)

require (
	github.com/klauspost/compress v1.18.0 // indirect
	github.com/nats-io/nkeys v0.4.11 // indirect
	github.com/nats-io/nuid v1.0.1 // indirect
	github.com/valyala/fastrand v1.1.0 // indirect
	github.com/valyala/histogram v1.2.0 // indirect
	golang.org/x/crypto v0.37.0 // indirect
	golang.org/x/net v0.21.0 // indirect
	golang.org/x/sys v0.38.0 // indirect
)

replace trafficgpt => ../../bindings/go
