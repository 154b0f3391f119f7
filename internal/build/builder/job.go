package builder

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"

	"github.com/bulwark-paas/bulwark"
)

// maxInput bounds both lines of the input together.
const maxInput = 4 << 20

// readJob reads the job and the values of the build secrets, one line each.
func readJob(r io.Reader) (*bulwark.BuildJob, map[string]string, error) {
	in := bufio.NewReader(io.LimitReader(r, maxInput))
	line := func(what string, v any) error {
		b, err := in.ReadBytes('\n')
		if err != nil && (err != io.EOF || len(b) == 0) {
			return fmt.Errorf("read the %s: %w", what, err)
		}
		// The text of a JSON error may quote the input, which may be a secret's value.
		if json.Unmarshal(b, v) != nil {
			return fmt.Errorf("the %s is not well formed", what)
		}
		return nil
	}
	var job bulwark.BuildJob
	if err := line("build job", &job); err != nil {
		return nil, nil, err
	}
	secrets := map[string]string{}
	if err := line("line of build secrets", &secrets); err != nil {
		return nil, nil, err
	}
	for _, dir := range []string{job.State, job.Output, job.Bases} {
		if dir == "" && job.Import == "" {
			return nil, secrets, fmt.Errorf("the build job lacks a directory")
		}
	}
	for _, name := range job.Secrets {
		if _, ok := secrets[string(name)]; !ok {
			return nil, secrets, fmt.Errorf("the build secret %s has no value", name)
		}
	}
	return &job, secrets, nil
}
