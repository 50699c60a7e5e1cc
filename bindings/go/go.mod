module trafficgpt

go 1.24
