module github.com/bulwark-paas/bulwark/tools/corpus

go 1.26.6

require github.com/wallarm/gotestwaf v0.5.8
