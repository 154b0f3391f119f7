package kit

import "io"

func kinds() []string { return []string{"memory", "pids", "files", "disk", "cpu"} }

func exhaust(o *options, stdout, stderr io.Writer) error { return errUsage }
