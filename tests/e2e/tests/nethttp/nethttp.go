// Go's net/http, as a server and as a client.
//
//	nethttp serve HTTP1-ADDRESS H2C-ADDRESS         serves the one protocol on the one address, the other on the other
//	nethttp call PROXY http1|h2c < call > answer    makes one call through a proxy; both are JSON
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"os"
	"strings"
	"time"
)

func main() {
	switch os.Args[1] {
	case "serve":
		go serve(os.Args[2], protocols(false))
		serve(os.Args[3], protocols(true))
	case "call":
		if err := call(os.Args[2], protocols(os.Args[3] == "h2c")); err != nil {
			log.Fatal(err)
		}
	}
}

func protocols(isHTTP2 bool) *http.Protocols {
	only := new(http.Protocols)
	only.SetHTTP1(!isHTTP2)
	only.SetUnencryptedHTTP2(isHTTP2)
	return only
}

func serve(address string, only *http.Protocols) {
	mux := http.NewServeMux()
	mux.HandleFunc("/content", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		http.ServeContent(w, r, "content.txt", time.Time{}, strings.NewReader(strings.Repeat("content\n", 1250)))
	})
	mux.HandleFunc("/hints", func(w http.ResponseWriter, r *http.Request) {
		for _, link := range []string{"</a.css>", "</b.css>"} {
			w.Header().Set("Link", link)
			w.WriteHeader(http.StatusEarlyHints)
		}
		w.Header().Del("Link")
		io.WriteString(w, "hinted")
	})
	// The server says 100 Continue when the body is read first.
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Trailer", "X-Sum")
		w.Write(body)
		// Now, without a length: in HTTP/1.1 only chunks have trailers after them.
		w.(http.Flusher).Flush()
		w.Header().Set("X-Sum", r.Trailer.Get("X-Sum"))
	})
	mux.HandleFunc("/refuse", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	})
	mux.HandleFunc("/nothing", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusNoContent)
	})
	named := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Proto", r.Proto)
		mux.ServeHTTP(w, r)
	}
	server := http.Server{Addr: address, Handler: http.HandlerFunc(named), Protocols: only}
	log.Fatal(server.ListenAndServe())
}

type asked struct {
	Method    string
	Authority string
	Path      string
	Fields    [][2]string
	Body      *string
	Trailer   *string
}

type interim struct {
	Status int    `json:"status"`
	Link   string `json:"link"`
}

type answered struct {
	Status   int         `json:"status"`
	Interims []interim   `json:"interims"`
	Fields   [][2]string `json:"fields"`
	Body     string      `json:"body"`
	Trailer  string      `json:"trailer"`
}

func call(proxy string, only *http.Protocols) error {
	var asked asked
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		return err
	}
	// A body for which the server does not ask stays here.
	transport := &http.Transport{Protocols: only, ExpectContinueTimeout: time.Minute, DisableCompression: true}
	if only.HTTP1() {
		transport.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: proxy})
	} else {
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, proxy)
		}
	}
	request, err := http.NewRequest(asked.Method, "http://"+asked.Authority+asked.Path, nil)
	if err != nil {
		return err
	}
	if asked.Body != nil {
		request.Body = io.NopCloser(strings.NewReader(*asked.Body))
		request.ContentLength = int64(len(*asked.Body))
	}
	if asked.Trailer != nil {
		// Trailers come after chunks.
		request.ContentLength = -1
		request.Trailer = http.Header{"X-Sum": {*asked.Trailer}}
	}
	for _, field := range asked.Fields {
		request.Header.Set(field[0], field[1])
	}
	answer := answered{Interims: []interim{}, Fields: [][2]string{}}
	trace := &httptrace.ClientTrace{Got1xxResponse: func(status int, header textproto.MIMEHeader) error {
		answer.Interims = append(answer.Interims, interim{status, header.Get("Link")})
		return nil
	}}
	response, err := transport.RoundTrip(request.WithContext(httptrace.WithClientTrace(request.Context(), trace)))
	if err != nil {
		return err
	}
	var body bytes.Buffer
	if _, err := body.ReadFrom(response.Body); err != nil {
		return fmt.Errorf("body after %s: %w", response.Status, err)
	}
	for name, values := range response.Header {
		answer.Fields = append(answer.Fields, [2]string{strings.ToLower(name), strings.Join(values, ", ")})
	}
	answer.Status, answer.Body, answer.Trailer = response.StatusCode, body.String(), response.Trailer.Get("X-Sum")
	return json.NewEncoder(os.Stdout).Encode(answer)
}
