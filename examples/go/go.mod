module trafficgpt-examples

go 1.24

require trafficgpt v0.0.0

replace trafficgpt => ../../bindings/go
