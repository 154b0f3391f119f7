package kit

func build(o *options) *Report { return &Report{Attempts: tryAll(o)} }
