package posture

import (
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/bulwark-paas/bulwark"
)

func int5() Control {
	return Control{ID: "INT-5", Version: 1, Every: hourly,
		Promise: "There is a bill of materials for every release: which contain a package is answered at once, and rightly.",
		Tries: "Asks which running releases contain a module that the model app's program was built with, as the program itself says; asks for another version, " +
			"and for a package that nobody has; has the signed document checked.",
		Probe: probeINT5}
}

// atOnce is how long an answer may take.
const atOnce = 2 * time.Second

func probeINT5(ctx context.Context, w *World, r *Record) error {
	app, err := w.Person.Model(ctx, w.Scratch)
	if err != nil {
		return err
	}
	// What the program says of itself is not what the platform found in the image.
	info, err := buildinfo.ReadFile(w.Kit)
	if err != nil {
		return err
	}
	if len(info.Deps) == 0 {
		return errors.New("the kit was built with no module")
	}
	dep := info.Deps[0]
	if dep.Replace != nil {
		dep = dep.Replace
	}
	var found map[string]bool
	took := atOnce
	for try := 0; try < 3 && took >= atOnce; try++ { // what one question takes is the machine's matter too
		began := time.Now()
		if found, err = w.Person.releasesWith(ctx, dep.Path+"@"+dep.Version); err != nil {
			return err
		}
		took = time.Since(began)
	}
	r.Refused("run a release with a module that is not found in it", found[app], fmt.Sprintf("%s@%s", dep.Path, dep.Version))
	r.Refused("keep somebody waiting for the answer", took < atOnce, took.Round(time.Millisecond).String())
	r.Proven("the program was built with the module, as it says itself", dep.Version != "", dep.Path+"@"+dep.Version)
	for what, name := range map[string]string{"a version that it has not": dep.Path + "@v0.0.0-posture", "a package that nobody has": "there-is-no-such-package-" + randomHex(4)} {
		wrong, err := w.Person.releasesWith(ctx, name)
		if err != nil {
			return err
		}
		r.Refused("have a release named for "+what, len(wrong) == 0, fmt.Sprint(len(wrong)))
	}
	for _, format := range []string{"spdx", "cyclonedx"} {
		doc, err := w.Person.Do(ctx, "builds", "sbom", "--format", format, "--app", app)
		if err == nil && !json.Valid(doc) {
			err = errors.New("it is no JSON")
		}
		r.Proven("the signed document in the form "+format+" is that of the image", err == nil, fmt.Sprint(err))
	}
	return nil
}

// releasesWith asks which apps' running releases contain a package.
func (p *Person) releasesWith(ctx context.Context, what string) (map[string]bool, error) {
	out, err := p.Do(ctx, "packages", what, "--json")
	if err != nil {
		return nil, err
	}
	var got struct {
		Found []struct {
			App bulwark.AppName `json:"app"`
		} `json:"found"`
		Unknown []bulwark.AppName `json:"unknown"`
	}
	if err := json.Unmarshal(out, &got); err != nil {
		return nil, err
	}
	apps := map[string]bool{}
	for _, f := range got.Found {
		apps[string(f.App)] = true
	}
	return apps, nil
}
