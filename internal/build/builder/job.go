package builder

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/bulwark-paas/bulwark"
)

// maxInput bounds both lines of the input together.
const maxInput = 4 << 20

// job is what is to be done and where.
type job struct {
	bulwark.BuildSetup
	bulwark.BuildJob
}

// errNoJob is the end of the input before a job: nobody needs this builder.
var errNoJob = errors.New("no job came")

// input is what the builder is told, a line each: the setup, then the job and the values of the build secrets.
type input struct{ lines *bufio.Reader }

func newInput(r io.Reader) *input { return &input{bufio.NewReader(io.LimitReader(r, maxInput))} }

func (in *input) line(what string, v any) error {
	b, err := in.lines.ReadBytes('\n')
	if err == io.EOF && len(b) == 0 {
		return fmt.Errorf("read the %s: %w", what, errNoJob)
	}
	if err != nil && err != io.EOF {
		return fmt.Errorf("read the %s: %w", what, err)
	}
	// The text of a JSON error may quote the input, which may be a secret's value.
	if json.Unmarshal(b, v) != nil {
		return fmt.Errorf("the %s is not well formed", what)
	}
	return nil
}

// setup reads the first line.
func (in *input) setup() (*bulwark.BuildSetup, error) {
	var s bulwark.BuildSetup
	if err := in.line("builder's setup", &s); err != nil {
		return nil, err
	}
	for _, dir := range []string{s.State, s.Output, s.Bases} {
		if dir == "" {
			return nil, errors.New("the builder's setup lacks a directory")
		}
	}
	return &s, nil
}

// job reads the other two lines. The secrets are returned also with an error, for the redactor.
func (in *input) job() (*bulwark.BuildJob, map[string]string, error) {
	var j bulwark.BuildJob
	if err := in.line("build job", &j); err != nil {
		return nil, nil, err
	}
	secrets := map[string]string{}
	if err := in.line("line of build secrets", &secrets); err != nil {
		return nil, nil, err
	}
	if (j.Source == "") == (j.Import == "") {
		return nil, secrets, errors.New("the build job names no source, or two")
	}
	for _, name := range j.Secrets {
		if _, ok := secrets[string(name)]; !ok {
			return nil, secrets, fmt.Errorf("the build secret %s has no value", name)
		}
	}
	return &j, secrets, nil
}
