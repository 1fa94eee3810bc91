// An application of Go's net/http that answers each request with what it saw. Prints its port.
package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
)

type seen struct {
	Method string      `json:"method"`
	Target string      `json:"target"`
	Host   string      `json:"host"`
	Fields [][2]string `json:"fields"`
	Body   string      `json:"body"`
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	var count atomic.Int64
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	panic(http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if r.RequestURI == "/count-of-requests" {
			fmt.Fprint(w, count.Load())
			return
		}
		count.Add(1)
		fields := [][2]string{}
		for name, values := range r.Header {
			for _, value := range values {
				fields = append(fields, [2]string{strings.ToLower(name), hex.EncodeToString([]byte(value))})
			}
		}
		w.Header().Set("x-seen", "1")
		json.NewEncoder(w).Encode(seen{r.Method, r.RequestURI, r.Host, fields, hex.EncodeToString(body)})
	})))
}
