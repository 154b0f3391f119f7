package posture

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

func int3() Control {
	return Control{ID: "INT-3", Version: 1, Every: daily,
		Promise: "Only what this platform built from a recorded source runs, as somebody signed for it.",
		Tries: "Asks the node, in the server's place, to start an unsigned release, one signed by another key, one with another image, command, config or " +
			"generation, one with another app's provenance, one whose cause is another, and one that was replaced.",
		Probe: probeINT3}
}

func probeINT3(ctx context.Context, w *World, r *Record) error {
	app, err := w.Person.Model(ctx, w.Scratch)
	if err != nil {
		return err
	}
	// So that there is an older release, of the same image and with other config.
	if _, err := w.Person.Do(ctx, "config", "set", "PROBED="+time.Now().UTC().Format(time.RFC3339), "--app", app); err != nil {
		return err
	}
	id, err := w.Person.id(ctx, app)
	if err != nil {
		return err
	}
	bundle, rel, old, err := w.bundles(ctx, id)
	if err != nil {
		return err
	}
	err = w.start(ctx, bundle)
	r.Proven("the release starts as it is", err == nil, fmt.Sprint(err))
	forgeries, err := forge(bundle, old, rel)
	if err != nil {
		return err
	}
	if other, err := w.otherBundle(ctx, id); err == nil {
		b := bundle
		b.Provenance = other.Provenance
		forgeries = append(forgeries, forgery{"the provenance of another app's image", b})
	}
	for _, f := range forgeries {
		err := w.start(ctx, f.bundle)
		k := bulwark.KindOf(err)
		refused := err != nil && k != bulwark.KindUnavailable && k != bulwark.KindBusy && k != bulwark.KindInternal
		if err != nil && !refused {
			return fmt.Errorf("%s: %w", f.what, err)
		}
		r.Refused("start "+f.what, refused, fmt.Sprint(err))
	}
	return nil
}

type forgery struct {
	what   string
	bundle statement.Bundle
}

// start asks the node for an instance as the server does, and ends it at once if there is one.
func (w *World) start(ctx context.Context, b statement.Bundle) error {
	id := bulwark.NewInstanceID()
	err := w.Node.Call(ctx, "start", nodeapi.Start{Bundle: b, Instance: id, Process: bulwark.ProcessWeb, Index: 1}, nil)
	if err != nil {
		return err
	}
	return w.Node.Call(ctx, "stop", nodeapi.Stop{Instance: id, Grace: bulwark.Duration(time.Second)}, nil)
}

// bundles returns the newest promoted release of an app and the one before it.
func (w *World) bundles(ctx context.Context, id bulwark.AppID) (b statement.Bundle, rel *statement.Release, old statement.Bundle, err error) {
	var all []nodeapi.Instance
	if err := w.Node.Call(ctx, "instances", struct{}{}, &all); err != nil {
		return b, nil, old, err
	}
	var newest uint64
	for _, i := range all {
		if i.App == id && i.Process == bulwark.ProcessWeb && i.Phase == nodeapi.PhaseHealthy {
			newest = max(newest, i.Generation)
		}
	}
	var got, before nodeapi.Released
	if err := w.Node.Call(ctx, "bundle", nodeapi.Promote{App: id, Generation: newest}, &got); err != nil {
		return b, nil, old, fmt.Errorf("release %d: %w", newest, err)
	}
	if err := w.Node.Call(ctx, "bundle", nodeapi.Promote{App: id, Generation: newest - 1}, &before); err != nil {
		return b, nil, old, fmt.Errorf("release %d: %w", newest-1, err)
	}
	return got.Bundle, &got.Release, before.Bundle, nil
}

// otherBundle is a release of an app that is not the prober's.
func (w *World) otherBundle(ctx context.Context, not bulwark.AppID) (statement.Bundle, error) {
	var all []nodeapi.Instance
	if err := w.Node.Call(ctx, "instances", struct{}{}, &all); err != nil {
		return statement.Bundle{}, err
	}
	for _, i := range all {
		if i.App != not {
			var got nodeapi.Released
			err := w.Node.Call(ctx, "bundle", nodeapi.Promote{App: i.App, Generation: i.Generation}, &got)
			return got.Bundle, err
		}
	}
	return statement.Bundle{}, errors.New("there is no other app")
}

// otherApp is the name of an app of another tenant's.
func (w *World) otherApp(ctx context.Context, not string) (string, error) {
	var all []nodeapi.Instance
	if err := w.Node.Call(ctx, "instances", struct{}{}, &all); err != nil {
		return "", err
	}
	for _, i := range all {
		var got nodeapi.Released
		err := w.Node.Call(ctx, "bundle", nodeapi.Promote{App: i.App, Generation: i.Generation}, &got)
		if err == nil && string(got.Release.Name) != not {
			return string(got.Release.Name), nil
		}
	}
	return "", errors.New("no app of another tenant runs yet")
}

// forge makes what an attacker who owns the server could send.
func forge(good, old statement.Bundle, rel *statement.Release) ([]forgery, error) {
	_, foreign, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	resigned, err := statement.Seal(statement.ReleasePayloadType, rel, foreign)
	if err != nil {
		return nil, err
	}
	with := func(what string, change func(*statement.Bundle)) forgery {
		b := good
		change(&b)
		return forgery{what, b}
	}
	out := []forgery{
		with("an unsigned release", func(b *statement.Bundle) { b.Release = unsigned(b.Release) }),
		with("a release that another key signed", func(b *statement.Bundle) { b.Release = resigned }),
		with("a release without provenance", func(b *statement.Bundle) { b.Provenance = nil }),
		with("a release with a provenance that nobody signed", func(b *statement.Bundle) { b.Provenance = unsigned(b.Provenance) }),
		with("a release whose cause is another", func(b *statement.Bundle) { b.Cause = old.Cause }),
		with("a release that no person caused", func(b *statement.Bundle) { b.Cause = nil }),
		{"the release that was replaced", old},
	}
	for what, change := range map[string]func(*statement.Release){
		"another command": func(r *statement.Release) {
			r.Plan.Processes = map[bulwark.ProcessType]bulwark.Command{bulwark.ProcessWeb: {Argv: []string{"/kit", "hold", "--seconds", "1"}}}
		},
		"another image":           func(r *statement.Release) { r.Image = bulwark.Sum([]byte("another")) },
		"another config":          func(r *statement.Release) { r.Config.Digest = bulwark.Sum([]byte("another")) },
		"a generation of its own": func(r *statement.Release) { r.Generation += 1000 },
		"another app's name":      func(r *statement.Release) { r.Name = "another" },
	} {
		changed := *rel
		change(&changed)
		payload, err := json.Marshal(changed)
		if err != nil {
			return nil, err
		}
		b := good
		if b.Release, err = replaced(good.Release, payload); err != nil {
			return nil, err
		}
		out = append(out, forgery{"a release with " + what + " under the old signature", b})
	}
	slices.SortFunc(out, func(a, b forgery) int { return strings.Compare(a.what, b.what) })
	return out, nil
}

func unsigned(envelope []byte) []byte {
	var m map[string]json.RawMessage
	if json.Unmarshal(envelope, &m) != nil {
		return nil
	}
	m["signatures"] = json.RawMessage(`[]`)
	out, _ := json.Marshal(m) // of what was just read
	return out
}

// replaced puts another payload under an envelope's signature.
func replaced(envelope, payload []byte) ([]byte, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(envelope, &m); err != nil {
		return nil, err
	}
	text, err := json.Marshal(base64.StdEncoding.EncodeToString(payload))
	if err != nil {
		return nil, err
	}
	m["payload"] = text
	return json.Marshal(m)
}

// id is the app's.
func (p *Person) id(ctx context.Context, app string) (bulwark.AppID, error) {
	var info struct {
		ID bulwark.AppID `json:"id"`
	}
	out, err := p.Do(ctx, "apps", "info", app, "--json")
	if err == nil {
		err = json.Unmarshal(out, &info)
	}
	return info.ID, err
}
