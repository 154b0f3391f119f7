package gitssh

import "time"

// SetTimes shortens the waits for a client that does not read.
func SetTimes(c *Config, patience, finish time.Duration) { c.patience, c.finish = patience, finish }
