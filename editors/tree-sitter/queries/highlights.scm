; What editors colour in Modelfiles: written by python editors/generate.py

(comment) @comment
((comment) @keyword.directive
  (#match? @keyword.directive "^#[ \t]*syntax[ \t]*=[ \t]*mbuild/1"))
(keyword) @keyword
(as) @keyword
(option) @keyword
(compared) @operator
(continued) @string.escape
(name) @variable.parameter
(role) @constant.builtin
(key) @property
(path) @string.special.path
((as) . (_)* . (path) @type)
[(quoted) (triple) (string)] @string
(bare) @string
((bare) @number
  (#match? @number "^[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]+)?[ \t]*$"))
((bare) @boolean
  (#match? @boolean "^(true|false)[ \t]*$"))
(argument) @variable
((word) @number
  (#match? @number "^[0-9]+([.][0-9]+)?([KkMmGgTt]i?[Bb])?$"))
((word) @type
  (#match? @type "^(bf16|f16|f32|iq1_m|iq1_s|iq2_m|iq2_s|iq2_xs|iq2_xxs|iq3_m|iq3_s|iq3_xs|iq3_xxs|iq4_nl|iq4_xs|mxfp4|mxfp4_moe|nvfp4|q1_0|q2_0|q2_k|q2_k_s|q3_k|q3_k_l|q3_k_m|q3_k_s|q4_0|q4_1|q4_k|q4_k_m|q4_k_s|q5_0|q5_1|q5_k|q5_k_m|q5_k_s|q6_k|q8_0|tq1_0|tq2_0)$|^(BF16|F16|F32|IQ1_M|IQ1_S|IQ2_M|IQ2_S|IQ2_XS|IQ2_XXS|IQ3_M|IQ3_S|IQ3_XS|IQ3_XXS|IQ4_NL|IQ4_XS|MXFP4|MXFP4_MOE|NVFP4|Q1_0|Q2_0|Q2_K|Q2_K_S|Q3_K|Q3_K_L|Q3_K_M|Q3_K_S|Q4_0|Q4_1|Q4_K|Q4_K_M|Q4_K_S|Q5_0|Q5_1|Q5_K|Q5_K_M|Q5_K_S|Q6_K|Q8_0|TQ1_0|TQ2_0)$"))
